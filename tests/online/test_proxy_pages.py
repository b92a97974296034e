"""Web pages that may ask the proxy, one model, and headers of streams."""

import json

import openai
import pytest
from aiohttp import web

from atlas_jax.config import ConfigError, build
from atlas_jax.online.production.proxy.config import (
  ChatServerConfig,
  Keys,
  ProxyConfig,
  UpstreamConfig,
)
from tests.online import raw_http
from tests.online.proxied import (
  ASK,
  application,
  begin_stream,
  run,
  teacher,
  upstream,
  whole,
  write_word,
)

PAGE = "http://localhost:3000"
KEYED = Keys(client="sk-client-key")
BEARER = "Authorization: Bearer sk-client-key"


def asked(requests: list[bytes], **kwargs) -> list[tuple[int, dict]]:
  """(status, headers in lower case) of each, where PAGE is allowed."""
  found = []

  async def ask(proxied):
    for data in requests:
      head = (await raw_http.send(proxied, data)).partition(b"\r\n\r\n")[0]
      first, *lines = head.decode().split("\r\n")
      pairs = (line.partition(": ")[::2] for line in lines)
      found.append((int(first[9:12]), {k.lower(): v for k, v in pairs}))

  kwargs = {"allow_origins": (PAGE,), **kwargs}
  with upstream() as up, teacher() as teach:
    run(ask, up, teach, **kwargs)
  return found


def preflight(*lines: str, path="/v1/chat/completions") -> bytes:
  method = "Access-Control-Request-Method: POST"
  return raw_http.head(method, *lines, path=path, method="OPTIONS")


@pytest.mark.parametrize("keys", [Keys(), KEYED])
def test_a_named_page_asks_first_and_reads_the_answer(keys):
  wish = "Access-Control-Request-Headers: authorization, x-stainless-os"
  own = f"Origin: {PAGE}"
  (status, may), (code, answer), (_, refused) = asked(
    [
      preflight(own, wish),
      raw_http.chat(own, "Sec-Fetch-Site: cross-site", BEARER),
      raw_http.chat(own, BEARER, kind="text/plain"),
    ],
    keys=keys,
  )
  assert status == 204 and "POST" in may["access-control-allow-methods"]
  words = "authorization, x-stainless-os"
  assert may["access-control-allow-headers"] == words
  assert code == 200
  for headers in (may, answer, refused):
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["vary"] == "Origin"


@pytest.mark.parametrize(
  "page",
  [
    *("http://localhost:3001", "https://localhost:3000", "https://localhost"),
    *("http://localhost:3000.evil.example", "null", "HTTP://localhost:3000"),
    f"{PAGE}\r\nOrigin: http://evil.example",
    f"{PAGE}\r\nOrigin: {PAGE}",
  ],
)
def test_no_other_page_is_let_in(page):
  lines = (f"Origin: {page}",)
  for keys, refused, answered in ((Keys(), 403, 403), (KEYED, 404, 200)):
    (options, chat) = asked(
      [preflight(*lines), raw_http.chat(*lines, BEARER)], keys=keys
    )
    assert (options[0], chat[0]) == (refused, answered)
    for _, headers in (options, chat):
      assert "access-control-allow-origin" not in headers


def test_a_named_page_needs_a_key_and_a_host_as_all_do():
  own = f"Origin: {PAGE}"
  ((status, _),) = asked([raw_http.chat(own)], keys=KEYED)
  assert status == 401
  other = asked([raw_http.chat(own, "Host: evil.example"), preflight(own)])
  assert [status for status, _ in other] == [403, 204]


def test_what_a_page_wants_to_send_is_repeated_only_as_names():
  odd = "Access-Control-Request-Headers: a, b; <script>"
  ((status, headers),) = asked([preflight(f"Origin: {PAGE}", odd)])
  assert status == 204 and "access-control-allow-headers" not in headers


def test_without_named_pages_nothing_is_said_of_them():
  own = f"Origin: {PAGE}"
  found = asked([preflight(own), raw_http.chat()], allow_origins=())
  assert [status for status, _ in found] == [403, 200]
  assert not any("access-control" in k for _, h in found for k in h)
  assert "vary" not in found[1][1]


@pytest.mark.parametrize(
  "origin",
  ["*", "localhost:3000", PAGE + "/", PAGE.upper(), "null", "", "http://a b"],
)
def test_what_is_no_origin_is_refused_at_the_start(origin):
  url = "http://127.0.0.1:9/v1"
  config = ProxyConfig(
    upstream=UpstreamConfig(url=url),
    teacher=ChatServerConfig(url=url, model="t"),
    allow_origins=(PAGE, "https://chat.example", origin),
  )
  with pytest.raises(ConfigError, match=r"config\.allow_origins=") as error:
    build(ProxyConfig, config)
  assert repr(origin) in str(error.value)


def listing(*names) -> web.Application:
  async def models(_):
    data = [{"id": name, "object": "model"} for name in names]
    return web.json_response({"object": "list", "data": data})

  return only_models(models)


def only_models(models) -> web.Application:
  app = web.Application()
  app.router.add_get("/v1/models", models)
  return app


def test_one_model_is_found_by_its_name():
  async def check_models(proxied):
    models = proxied.client.models
    for name in ("small", "org/Large-2"):
      found = await models.retrieve(name)
      assert (found.id, found.object) == (name, "model")
    for name in ("tiny", "small/x", "../metrics"):
      with pytest.raises(openai.NotFoundError, match="does not exist"):
        await models.retrieve(name)

  with teacher() as teach:
    run(check_models, listing("small", "org/Large-2"), teach)


def test_one_model_needs_the_key_too():
  async def check_key(proxied):
    assert (await proxied.get("/v1/models/stub"))[0] == 401

  with upstream() as up, teacher() as teach:
    run(check_key, up, teach, keys=KEYED, client_key="wrong")


@pytest.mark.parametrize(
  ("body", "status"),
  [("{}", 502), ('{"data": 3}', 502), ('{"data": [3]}', 502), ("[", 502)],
)
def test_a_list_that_is_none_is_no_model(body, status):
  async def models(_):
    return web.Response(text=body, content_type="application/json")

  async def check_model(proxied):
    code, text = await proxied.get("/v1/models/small")
    assert code == status and "cannot be understood" in text

  with teacher() as teach:
    run(check_model, only_models(models), teach)


def test_an_error_of_the_list_is_the_answer_for_one_model():
  async def check_model(proxied):
    code, text = await proxied.get("/v1/models/stub")
    assert code == 401 and "error" in json.loads(text)

  with upstream(api_key="sk-other") as up, teacher() as teach:
    run(check_model, up, teach)


KEPT = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


@pytest.mark.parametrize("extra", [{}, {"n": 2}])
def test_headers_that_a_stream_needs_are_kept(extra):
  async def chat(request):
    if not (await request.json()).get("stream"):
      return whole("plan")
    response = await begin_stream(request, KEPT | {"X-Internal": "secret"})
    await write_word(response, "a")
    return response

  async def check_headers(proxied):
    url = f"{proxied.url}/v1/chat/completions"
    body = {"messages": ASK, "stream": True, **extra}
    async with proxied.session.post(url, json=body) as answer:
      assert answer.status == 200
      assert {key: answer.headers[key] for key in KEPT} == KEPT
      assert "X-Internal" not in answer.headers

  with teacher() as teach:
    run(check_headers, application(chat), teach)
