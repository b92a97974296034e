"""Who comes in at a server, asked of the middleware as uvicorn asks it."""

import asyncio
import types

import pytest

pytest.importorskip("vllm")

from atlas_vllm import guard
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

TOKEN = "a-token"
GOOD = f"Bearer {TOKEN}".encode()
ENGINE = types.SimpleNamespace(
  engine_core=types.SimpleNamespace(
    resources=types.SimpleNamespace(engine_dead=False)
  )
)


async def hello(request):
  return PlainTextResponse("hello")


async def metrics(scope, receive, send):
  await PlainTextResponse("hello")(scope, receive, send)


async def socket(websocket):
  await websocket.accept()
  await websocket.send_text("hello")


def make_app(engine=ENGINE):
  """Answers everything, as if each of vLLM's paths were there."""
  app = Starlette(
    routes=[
      Mount("/metrics", metrics),
      WebSocketRoute("/v1/realtime", socket),
      WebSocketRoute("/health", socket),
      Route("/{path:path}", hello, methods=["GET", "POST", "OPTIONS", "PUT"]),
    ]
  )
  app.state.engine_client = engine
  app.state.args = types.SimpleNamespace(host="127.0.0.1", uds=None)
  app.add_middleware(guard.Guard)
  return app


@pytest.fixture
def app(monkeypatch):
  monkeypatch.setenv("VLLM_API_KEY", TOKEN)
  return make_app()


def ask(app, path, *tokens, method="GET", kind="http", **scope):
  """(status, body) of one request with these authorization headers."""
  sent = []

  async def send(message):
    sent.append(message)

  async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}

  headers = [(b"host", b"x"), *((b"authorization", t) for t in tokens)]
  full = {
    "type": kind,
    "method": method,
    "path": path,
    "raw_path": path.encode(errors="surrogateescape"),
    "query_string": b"",
    "root_path": "",
    "headers": headers,
    **scope,
  }
  asyncio.run(app(full, receive, send))
  body = b"".join(m.get("body", b"") for m in sent)
  return sent[0]["status"], body


OFFERED = sorted(guard._PATHS)
OTHERS = [
  "/invocations", "/generative_scoring", "/tokenize", "/detokenize", "/ping",
  "/scale_elastic_ep", "/is_scaling_elastic_ep", "/load", "/pause", "/resume",
  "/update_weights", "/collective_rpc", "/reset_prefix_cache", "/sleep",
  "/v1/load_lora_adapter", "/v1/embeddings", "/redoc", "/metrics/x", "/",
  "/server_info", "/abort_requests", "",
]  # fmt: skip
HEALTHS = [
  "//health", "/health/", "/healthz", "/HEALTH", "/health ", "/health;x",
  "/health/../v1/models", "/health%2f..", "/./health", "http://x/health",
  "/v1/../health", "/health\x00", "/health?x", "\\health", "health",
]  # fmt: skip


@pytest.mark.parametrize("path", OFFERED + OTHERS + HEALTHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT"])
def test_nothing_comes_in_without_the_token(app, path, method):
  status, body = ask(app, path, method=method)
  assert status == 401 and b"hello" not in body


def test_health_alone_comes_in_without_one(app):
  assert ask(app, "/health") == (200, b"hello")
  for method in ("HEAD", "POST", "OPTIONS", "get", "PUT"):
    assert ask(app, "/health", method=method)[0] == 401
  # A query is no part of the path, and a root path changes nothing.
  assert ask(app, "/health", query_string=b"a=/v1/models")[0] == 200
  assert ask(app, "/x/health", root_path="/x")[0] == 401


def test_with_the_token_come_in_the_paths_of_the_list(app):
  for path in OFFERED:
    assert ask(app, path, GOOD) == (200, b"hello"), path
  for path in OTHERS + HEALTHS:
    assert ask(app, path, GOOD)[0] == 404, path


def test_the_scheme_may_be_written_in_any_case(app):
  for scheme in (b"bearer", b"BEARER", b"Bearer"):
    assert ask(app, "/metrics", scheme + b" a-token")[0] == 200


@pytest.mark.parametrize(
  "tokens",
  [
    (),
    (b"",),
    (b"Bearer",),
    (b"Bearer ",),
    (b"Bearera-token",),
    (b"a-token",),
    (b"Basic a-token",),
    (b"Bearer  a-token",),
    (b" Bearer a-token",),
    (b"Bearer\ta-token",),
    (b"Bearer a-token ",),
    (b"Bearer a-token, Bearer a-token",),
    (b"Bearer a-toke",),
    (b"Bearer a-tokenn",),
    (b"Bearer A-TOKEN",),
    (b"Bearer a-token\x00",),
    (b"Bearer \xff\xfe",),
    ("Bearer ä-token".encode(),),
    (b"B\xe9arer a-token",),
    (GOOD, GOOD),
    (GOOD, b"Bearer other"),
    (b"Bearer other", GOOD),
    (b"Bearer " + b"a" * 100_000,),
  ],
)
def test_other_credentials(app, tokens):
  assert ask(app, "/metrics", *tokens)[0] == 401
  assert ask(app, "/health", *tokens)[0] == 200


@pytest.mark.parametrize("token", ["", None])
def test_without_a_token_in_the_environment_nobody_comes_in(monkeypatch, token):
  monkeypatch.delenv("VLLM_API_KEY", raising=False)
  if token is not None:
    monkeypatch.setenv("VLLM_API_KEY", token)
  app = make_app()
  assert ask(app, "/health")[0] == 200
  for given in ((), (b"Bearer ",), (b"Bearer",), (b"",), (b"Bearer None",)):
    assert ask(app, "/metrics", *given)[0] == 401


def start(host, uds=None):
  """As uvicorn begins, before it answers anybody."""

  async def inner(scope, receive, send):
    pass

  args = types.SimpleNamespace(host=host, uds=uds)
  state = types.SimpleNamespace(engine_client=ENGINE, args=args)
  scope = {"type": "lifespan", "app": types.SimpleNamespace(state=state)}
  asyncio.run(guard.Guard(inner)(scope, None, None))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", None, "10.0.0.1", "box.lan"])
def test_without_a_token_no_server_listens_beyond_its_machine(
  monkeypatch, host
):
  ended = []
  monkeypatch.setattr(guard.os, "_exit", ended.append)
  monkeypatch.delenv("VLLM_API_KEY", raising=False)
  start(host)
  assert ended == [1]
  start(host, uds="/run/socket")
  start("localhost")
  start("::1")
  monkeypatch.setenv("VLLM_API_KEY", TOKEN)
  start(host)
  assert ended == [1]


@pytest.mark.parametrize("path", ["/v1/realtime", "/health", "/metrics"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {TOKEN}"}])
def test_websockets_do_not_come_in(app, path, headers):
  # The client closes what it is refused; the status is 401 or 404.
  with (
    TestClient(app, headers=headers) as client,
    pytest.raises(WebSocketDisconnect),
    client.websocket_connect(path),
  ):
    raise AssertionError("it was let in")


def test_the_comparison_takes_constant_time(app, monkeypatch):
  seen, stock = [], guard.hmac.compare_digest
  monkeypatch.setattr(
    guard.hmac, "compare_digest", lambda *a: seen.append(a) or stock(*a)
  )
  ask(app, "/metrics", b"Bearer wrong")
  assert seen == [(b"wrong", TOKEN.encode())]


def test_a_dead_engine_ends_the_process(monkeypatch):
  resources = types.SimpleNamespace(engine_dead=False)
  engine = types.SimpleNamespace(
    engine_core=types.SimpleNamespace(resources=resources)
  )
  ended = []
  monkeypatch.setattr(guard, "_WATCH_S", 0.001)
  monkeypatch.setattr(guard.os, "_exit", ended.append)

  async def until(condition):
    async with asyncio.timeout(10):
      while not condition():
        await asyncio.sleep(0)

  async def main():
    sent, started = [], asyncio.Event()

    async def receive():
      if not started.is_set():
        started.set()
        return {"type": "lifespan.startup"}
      await until(lambda: ended)
      return {"type": "lifespan.shutdown"}

    async def send(message):
      sent.append(message["type"])

    running = asyncio.create_task(
      make_app(engine)({"type": "lifespan"}, receive, send)
    )
    await until(lambda: sent)
    for _ in range(100):
      await asyncio.sleep(0)
    assert ended == []
    resources.engine_dead = True
    await running
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

  asyncio.run(main())
  assert ended == [1]
