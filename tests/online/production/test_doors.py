"""Who gets through to the proxy: clients, not web pages, with known wishes."""

import asyncio
import json
import typing

import openai
import pytest
from aiohttp import web
from openai.types.chat import completion_create_params

from atlas_jax.online.production import chats, errors
from atlas_jax.online.production.config import Keys
from tests.online.production import raw_http
from tests.online.production.proxied import (
  ASK,
  application,
  proxy,
  served,
  teacher,
  upstream,
  whole,
)

KEYED = Keys(client="sk-client-key")
BEARER = "Authorization: Bearer sk-client-key"


async def answers(requests: list[bytes], **kwargs) -> list[bytes]:
  """What each brings; without a 200 among them nobody was asked."""
  async with proxy(**kwargs) as p:
    found = [await raw_http.send(p, data) for data in requests]
  assert all(b"access-control" not in answer.lower() for answer in found)
  if 200 not in map(raw_http.status, found):
    assert p.up.calls == p.teach.calls == []
  return found


async def statuses(requests: list[bytes], **kwargs) -> set[int | None]:
  return set(map(raw_http.status, await answers(requests, **kwargs)))


def gets(*lines: str, paths=("/v1/models", "/metrics")) -> list[bytes]:
  return [raw_http.head(*lines, path=path, method="GET") for path in paths]


@pytest.mark.parametrize(
  "host",
  [
    *("localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.1.2.3"),
    *("[::1]:8080", "box.lan", "Box.LAN:8080"),
  ],
)
async def test_this_machine_and_allowed_hosts_are_answered(host):
  own = [f"Host: {host}", f"Origin: http://{host}"]
  asked = [raw_http.chat(own[0]), raw_http.chat(*own)]
  assert await statuses(asked, allowed_hosts=("box.lan",)) == {200}


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
async def test_a_name_that_a_page_brought_is_refused(host):
  line = f"Host: {host}"
  paths = ("/v1/models", "/health", "/metrics", "/nowhere")
  assert await statuses([raw_http.chat(line), *gets(line, paths=paths)]) <= {
    *(403, 400)
  }


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
async def test_another_page_is_refused_and_spends_nothing(line):
  options = raw_http.head(line, method="OPTIONS")
  assert await statuses([raw_http.chat(line), options]) == {403}


async def test_with_a_key_pages_and_names_do_not_matter():
  lines = ("Host: api.example", "Origin: http://evil.example")
  data = [raw_http.chat(*lines, BEARER)]
  assert await statuses(data, keys=KEYED) == {200}
  assert await statuses([raw_http.chat(*lines)], keys=KEYED) == {401}
  options = raw_http.head(*lines, BEARER, method="OPTIONS")
  assert await statuses([options], keys=KEYED) == {404}


@pytest.mark.parametrize("keys", [Keys(), KEYED])
@pytest.mark.parametrize(
  "kind",
  [
    *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"),
    *("", "application/json-patch", "text/plain; application/json"),
  ],
)
async def test_only_json_is_a_chat(kind, keys):
  asked = [raw_http.chat(BEARER, kind=kind)]
  assert await statuses(asked, keys=keys) == {415}
  plain = [raw_http.chat(BEARER, kind="Application/JSON; charset=utf-8")]
  assert await statuses(plain, keys=keys) == {200}


TARGETS = {
  "http://evil.example/metrics": "GET",
  "http://localhost/v1/models": "GET",
  "//evil.example/v1/models": "GET",
  "/v1/../metrics": "GET",
  "/v1/%2e%2e/metrics": "GET",
  "/v1/models/..%2f..%2fmetrics": "GET",
  "*": "OPTIONS",
  "evil.example:80": "CONNECT",
  "/metrics": "TRACE",
  "/v1/embeddings": "POST",
  "/v1/chat/completions": "GET",
}


@pytest.mark.parametrize("keys", [Keys(), KEYED])
async def test_a_target_is_one_plain_path(keys):
  data = [raw_http.head(BEARER, path=p, method=m) for p, m in TARGETS.items()]
  for host in ("localhost", "evil.example"):
    data += [raw_http.chat("Host: localhost", f"Host: {host}")]
  for answer in await answers(data, keys=keys):
    assert raw_http.status(answer) in (400, 404)
    assert b"atlas_proxy" not in answer
    if b" 404 " in answer:
      assert b"only POST /v1/chat/completions" in answer or b"model" in answer


@pytest.mark.parametrize(
  "shown",
  [
    *("", "Bearer", "Bearer ", "Bearer wrong", "bearer wrong"),
    *("Bearer  sk-client-key", "Bearer sk-client-key x", "sk-client-key"),
    *("Bearer sk-client-ke", "Bearer sk-client-keyy", "Basic sk-client-key"),
    *("Bearer SK-CLIENT-KEY", "Bearer None", "Bearer null", "Bearer ***"),
    *("Bearer \xff\xfe", "Bearer sk-client-key,", "Bearer sk-client-key; a=b"),
  ],
)
async def test_a_wrong_credential_opens_nothing(shown):
  line = f"Authorization: {shown}"
  paths = ("/v1/models", "/v1/models/stub", "/metrics")
  asked = [raw_http.chat(line), raw_http.chat(f"x-api-key: {shown}", line)]
  asked += gets(line, paths=paths)
  assert await statuses(asked, keys=KEYED) == {401}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_the_scheme_of_a_key_has_no_case(scheme):
  line = f"Authorization: {scheme} sk-client-key"
  asked = [raw_http.chat(line), *gets(line)]
  assert await statuses(asked, keys=KEYED) == {200}


async def test_keys_reach_their_own_server_alone():
  keys = Keys(client="sk-client", upstream="sk-up", teacher="sk-teach")
  assert "sk-" not in repr(keys)
  servers = upstream(api_key="sk-up"), teacher(api_key="sk-teach")
  async with proxy(*servers, keys=keys, client_key="sk-client") as p:
    assert (await p.ask())[0] == "taught"
    assert (await p.client.models.list()).data[0].id == "stub"
    wrong = p.client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
      await wrong.chat.completions.create(model="any", messages=ASK)
    assert await p.counts() == {"taught": 1, "refused": 1}
  sent = {call.headers["Authorization"] for call in p.up.calls}
  assert sent == {"Bearer sk-up"} and len(p.up.calls) == 2
  assert p.teach.calls[0].headers["Authorization"] == "Bearer sk-teach"


async def test_the_clients_own_key_is_passed_on_to_the_upstream_alone():
  own = {"client_key": "sk-client", "sent": {"forward_authorization": True}}
  async with proxy(upstream(api_key="sk-client"), **own) as p:
    assert (await p.ask())[0] == "taught"
    await p.client.models.list()
    # Here is no key of a client, and the upstream is up all the same.
    assert (await p.health())["upstream"]["state"] == "up"
  assert "Authorization" not in p.teach.calls[0].headers
  async with proxy(upstream(api_key="sk-right-one"), **own) as p:
    with pytest.raises(openai.AuthenticationError):
      await p.ask()
  assert p.teach.calls == []


async def test_a_cookie_for_one_client_is_not_sent_for_another():
  seen = []

  async def chat(request):
    seen.append(request.headers.get("Cookie"))
    response = whole("re")
    response.set_cookie("session", f"of {len(seen)}")
    return response

  # Cookies of a bare address are kept by nobody.
  async with served(application(chat), "localhost") as up, proxy(up) as p:
    for _ in range(2):
      assert (await p.ask(n=2))[0] == "passed_through"
  assert seen == [None, None]


async def test_where_a_key_is_set_health_says_one_word_without_it():
  paths = ("/health",) * 2
  found = await answers(
    [*gets(paths=paths), *gets(BEARER, paths=paths)], keys=KEYED
  )
  bodies = [json.loads(a.partition(b"\r\n\r\n")[2]) for a in found]
  assert bodies[0] == bodies[1] == {"status": "ok"}
  assert bodies[3]["teacher"] == {"state": "up", "circuit": "closed"}


async def test_health_does_not_flood_the_servers():
  asked = []

  async def models(request):
    asked.append(request.path)
    return web.json_response({"data": []})

  async with proxy(application(models)) as p:
    found = await asyncio.gather(*(p.get("/health") for _ in range(9)))
  assert {status for status, _ in found} == {200}
  assert asked == ["/v1/models"]


async def test_health_says_what_a_question_for_the_models_brought():
  async def none(_):
    return web.Response(status=404)

  async with proxy(application(none), teacher(api_key="sk-teach")) as p:
    status, text = await p.get("/health")
    health = json.loads(text)
    assert (status, health["status"]) == (200, "degraded")
    assert health["upstream"]["state"] == "HTTP 404"
    assert health["teacher"]["state"] == "HTTP 401"


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
  data = json.dumps({"messages": ASK, field: "http://evil.example"}).encode()
  with pytest.raises(errors.Refused) as error:
    chats.read_chat(data, 1000)
  status, words = error.value.args
  assert status == 400 and repr(field) in words and "evil" not in words


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
