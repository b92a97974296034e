"""Who gets through to the proxy: clients, not web pages, with known wishes."""

import asyncio
import json
import typing

import openai
import pytest
from aiohttp import web
from openai.types.chat import completion_create_params

from atlas_jax.config import ConfigError, build, tree_of
from atlas_jax.online.production.proxy import chats, errors
from atlas_jax.online.production.proxy.config import (
  ChatServerConfig,
  Keys,
  ProxyConfig,
  UpstreamConfig,
)
from tests.online import raw_http
from tests.online.proxied import ASK, run, teacher, upstream

KEYED = Keys(client="sk-client-key")
BEARER = "Authorization: Bearer sk-client-key"


def answers(requests: list[bytes], **kwargs) -> tuple[list[bytes], int, int]:
  """(what each brings, calls of the upstream, calls of the teacher)."""
  found = []

  async def ask(proxied):
    found.extend([await raw_http.send(proxied, data) for data in requests])

  with upstream() as up, teacher() as teach:
    run(ask, up, teach, **kwargs)
    return found, len(up.calls), len(teach.calls)


def statuses(requests: list[bytes], **kwargs) -> set[int | None]:
  found, up, teach = answers(requests, **kwargs)
  assert all(b"access-control" not in a.lower() for a in found)
  if 200 not in (seen := set(map(raw_http.status, found))):
    assert up == teach == 0
  return seen


@pytest.mark.parametrize(
  "host",
  [
    *("localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.1.2.3"),
    *("[::1]:8080", "box.lan", "Box.LAN:8080"),
  ],
)
def test_this_machine_and_allowed_hosts_are_answered(host):
  own = [f"Host: {host}", f"Origin: http://{host}"]
  asked = [raw_http.chat(own[0]), raw_http.chat(*own)]
  assert statuses(asked, allowed_hosts=("box.lan",)) == {200}


@pytest.mark.parametrize(
  "host",
  [
    *("evil.example", "evil.example:8080", "localhost.evil.example", ""),
    *("127.0.0.1.evil.example", "127.0.0.1@evil.example", "evil@localhost"),
    *("localhost.", "localhost, evil.example", "10.0.0.1", "[::1", "a b"),
    *("[::ffff:127.0.0.1]", "[::1%25lo]", "127.1", "2130706433", "0.0.0.0"),
    *("[::2]", "l\xf6calhost", "localhost:x", "localhost/x", "12\xb27.0.0.1"),
  ],
)
def test_a_name_that_a_page_brought_is_refused(host):
  get = (f"Host: {host}",)
  asked = [raw_http.chat(*get)] + [
    raw_http.head(*get, path=path, method="GET")
    for path in ("/v1/models", "/health", "/metrics", "/nowhere")
  ]
  assert statuses(asked) <= {403, 400}


@pytest.mark.parametrize(
  "line",
  [
    *("Origin: http://evil.example", "Origin: null", "Origin:"),
    *("Origin: http://localhost:1", "Origin: https://localhost"),
    "Origin: http://localhost\r\nOrigin: http://evil.example",
    *("Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"),
    *("Sec-Fetch-Site: ", "Sec-Fetch-Site: NONE"),
    "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site",
  ],
)
def test_another_page_is_refused_and_spends_nothing(line):
  options = raw_http.head(line, method="OPTIONS")
  assert statuses([raw_http.chat(line), options]) == {403}


def test_with_a_key_pages_and_names_do_not_matter():
  lines = ("Host: api.example", "Origin: http://evil.example")
  data = [raw_http.chat(*lines, BEARER)]
  assert statuses(data, keys=KEYED) == {200}
  assert statuses([raw_http.chat(*lines)], keys=KEYED) == {401}
  options = raw_http.head(*lines, BEARER, method="OPTIONS")
  assert statuses([options], keys=KEYED) == {404}


@pytest.mark.parametrize("keys", [Keys(), KEYED])
@pytest.mark.parametrize(
  "kind",
  [
    *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"),
    *("", "application/json-patch", "text/plain; application/json"),
  ],
)
def test_only_json_is_a_chat(kind, keys):
  asked = [raw_http.chat(BEARER, kind=kind)]
  assert statuses(asked, keys=keys) == {415}
  plain = [raw_http.chat(BEARER, kind="Application/JSON; charset=utf-8")]
  assert statuses(plain, keys=keys) == {200}


@pytest.mark.parametrize(
  "data",
  [
    raw_http.chat("Host: localhost", "Host: localhost"),
    raw_http.chat("Host: localhost", "Host: evil.example"),
    raw_http.head(BEARER, path="http://evil.example/metrics", method="GET"),
    raw_http.head(BEARER, path="http://localhost/v1/models", method="GET"),
    raw_http.head(BEARER, path="//evil.example/v1/models", method="GET"),
    raw_http.head(BEARER, path="/v1/../metrics", method="GET"),
    raw_http.head(BEARER, path="/v1/%2e%2e/metrics", method="GET"),
    raw_http.head(BEARER, path="/v1/models/..%2f..%2fmetrics", method="GET"),
    raw_http.head(BEARER, path="*", method="OPTIONS"),
    raw_http.head(BEARER, path="evil.example:80", method="CONNECT"),
    raw_http.head(BEARER, path="/metrics", method="TRACE"),
  ],
)
def test_a_target_is_one_plain_path(data):
  for keys in (Keys(), KEYED):
    (answer,), up, teach = answers([data], keys=keys)
    assert raw_http.status(answer) in (400, 404) and up == teach == 0
    assert b"atlas_proxy" not in answer


WRONG = [
  *("", "Bearer", "Bearer ", "Bearer wrong", "bearer wrong"),
  *("Bearer  sk-client-key", "Bearer sk-client-key x", "sk-client-key"),
  *("Bearer sk-client-ke", "Bearer sk-client-keyy", "Basic sk-client-key"),
  *("Bearer SK-CLIENT-KEY", "Bearer None", "Bearer null", "Bearer ***"),
  *("Bearer \xff\xfe", "Bearer sk-client-key,", "Bearer sk-client-key; a=b"),
]


@pytest.mark.parametrize("shown", WRONG)
def test_a_wrong_credential_opens_nothing(shown):
  line = f"Authorization: {shown}"
  asked = [raw_http.chat(line), raw_http.chat(f"x-api-key: {shown}", line)] + [
    raw_http.head(line, path=path, method="GET")
    for path in ("/v1/models", "/metrics")
  ]
  assert statuses(asked, keys=KEYED) == {401}


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
def test_the_scheme_of_a_key_has_no_case(scheme):
  line = f"Authorization: {scheme} sk-client-key"
  asked = [raw_http.chat(line)] + [
    raw_http.head(line, path=path, method="GET")
    for path in ("/v1/models", "/metrics")
  ]
  assert statuses(asked, keys=KEYED) == {200}


def test_where_a_key_is_set_health_says_one_word_without_it():
  paths = [raw_http.head(path="/health", method="GET")] * 3
  keyed = raw_http.head(BEARER, path="/health", method="GET")
  seen, _, _ = answers([*paths, keyed], keys=KEYED)
  bodies = [json.loads(a.partition(b"\r\n\r\n")[2]) for a in seen]
  assert bodies[0] == bodies[2] == {"status": "ok"}
  assert bodies[3]["teacher"] == {"state": "up", "circuit": "closed"}


def test_health_does_not_flood_the_servers():
  asked = []

  async def models(request):
    asked.append(request.path)
    return web.json_response({"data": []})

  async def check_once(proxied):
    answers = await asyncio.gather(*(proxied.get("/health") for _ in range(9)))
    assert {status for status, _ in answers} == {200}

  app = web.Application()
  app.router.add_get("/v1/models", models)
  with teacher() as teach:
    run(check_once, app, teach)
  assert asked == ["/v1/models"]


URL = "http://127.0.0.1:9/v1"


def reachable(host, **changes):
  forward = changes.pop("forward", False)
  sent = UpstreamConfig(url=URL, forward_authorization=forward)
  teaches = ChatServerConfig(url=URL, model="t")
  return ProxyConfig(host=host, upstream=sent, teacher=teaches, **changes)


@pytest.mark.parametrize(
  "host", ["0.0.0.0", "::", "", "10.0.0.1", "box.lan", "127.0.0.1.evil.example"]
)
def test_other_machines_need_a_key(host):
  with pytest.raises(ConfigError, match=r"^config\.host=.*config\.api_key_env"):
    build(ProxyConfig, reachable(host))
  build(ProxyConfig, reachable(host, api_key_env="KEY"))
  build(ProxyConfig, reachable(host, forward=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_this_machine_needs_none(host):
  build(ProxyConfig, reachable(host))


def test_a_key_that_the_upstream_refuses_is_not_taught():
  async def ask(proxied):
    with pytest.raises(openai.AuthenticationError):
      await proxied.ask()

  with upstream(api_key="sk-right-one") as up, teacher() as teach:
    sent = {"forward_authorization": True}
    run(ask, up, teach, client_key="sk-wrong-one", sent=sent)
  assert teach.calls == []


@pytest.mark.parametrize(
  "field",
  [
    *("api_base", "api_key", "base_url", "extra_headers", "extra_body"),
    *("custom_llm_provider", "mock_response", "fallbacks", "headers", ""),
    *("kv_transfer_params", "vllm_xargs", "chat_template", "api_version"),
    *("mm_processor_kwargs", "logits_processors", "Messages", "messages "),
  ],
)
def test_a_field_that_may_steer_a_server_is_refused(field):
  async def ask(proxied):
    with pytest.raises(openai.BadRequestError) as error:
      await proxied.ask(extra_body={field: "http://evil.example"})
    assert repr(field) in error.value.body["message"]
    assert "evil" not in error.value.body["message"]

  with upstream() as up, teacher() as teach:
    run(ask, up, teach)
  assert up.calls == teach.calls == []


def test_fields_of_openai_and_named_ones_are_passed_on():
  params = completion_create_params.CompletionCreateParamsBase
  known = {name: None for name in typing.get_type_hints(params)}
  body = {**known, "messages": ASK, "top_k": 5, "keep_alive": 9}
  data = json.dumps(body).encode()
  assert chats.read_chat(data, 1000, ("keep_alive",)).body == body
  with pytest.raises(errors.Refused, match="'keep_alive'"):
    chats.read_chat(data, 1000)


@pytest.mark.parametrize("stream", [1, 0, "true", "", {}, [True]])
def test_a_stream_is_asked_for_by_true_alone(stream):
  """An upstream may take 1 for true, and answer with what is not expected."""
  data = json.dumps({"messages": ASK, "stream": stream}).encode()
  with pytest.raises(errors.Refused, match="'stream' must be true or false"):
    chats.read_chat(data, 1000)


@pytest.mark.parametrize(
  "name",
  [
    *("answer_timeout_s", "write_timeout_s", "idle_timeout_s"),
    *("max_connections", "max_held_bytes", "max_response_bytes"),
  ],
)
def test_a_bound_is_above_nothing(name):
  with pytest.raises(ConfigError, match=f"config.{name}=0.* must be above 0"):
    build(ProxyConfig, tree_of(ProxyConfig(**{name: 0})))
