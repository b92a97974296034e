"""Web pages that may ask the proxy, one model, and headers of streams."""

import json

import openai
import pytest
from aiohttp import web

from atlas_jax.online.production.config import Keys
from tests.online.production import raw_http
from tests.online.production.proxied import (
  application,
  begin_stream,
  proxy,
  upstream,
  working,
  write_word,
)

PAGE = "http://localhost:3000"
OWN = f"Origin: {PAGE}"
KEYED = Keys(client="sk-client-key")
BEARER = "Authorization: Bearer sk-client-key"


async def asked(requests: list[bytes], **kwargs) -> list[tuple[int, dict]]:
  """(status, headers in lower case) of each, where PAGE is allowed."""
  found = []
  async with proxy(**{"allow_origins": (PAGE,), **kwargs}) as p:
    for data in requests:
      head = (await raw_http.send(p, data)).partition(b"\r\n\r\n")[0]
      first, *lines = head.decode().split("\r\n")
      pairs = (line.partition(": ")[::2] for line in lines)
      found.append((int(first[9:12]), {k.lower(): v for k, v in pairs}))
  return found


def preflight(*lines: str, path="/v1/chat/completions") -> bytes:
  method = "Access-Control-Request-Method: POST"
  return raw_http.head(method, *lines, path=path, method="OPTIONS")


@pytest.mark.parametrize("keys", [Keys(), KEYED])
async def test_a_named_page_asks_first_and_reads_the_answer(keys):
  wish = "Access-Control-Request-Headers: authorization, x-stainless-os"
  requests = [
    preflight(OWN, wish),
    raw_http.chat(OWN, "Sec-Fetch-Site: cross-site", BEARER),
    raw_http.chat(OWN, BEARER, kind="text/plain"),
  ]
  found = await asked(requests, keys=keys)
  assert [status for status, _ in found] == [204, 200, 415]
  may = found[0][1]
  assert "POST" in may["access-control-allow-methods"]
  words = "authorization, x-stainless-os"
  assert may["access-control-allow-headers"] == words
  for _, headers in found:
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
async def test_no_other_page_is_let_in(page):
  lines = (f"Origin: {page}",)
  requests = [preflight(*lines), raw_http.chat(*lines, BEARER)]
  for keys, expected in ((Keys(), [403, 403]), (KEYED, [404, 200])):
    found = await asked(requests, keys=keys)
    assert [status for status, _ in found] == expected
    assert not any("access-control-allow-origin" in h for _, h in found)


async def test_a_named_page_needs_a_key_and_a_host_as_all_do():
  ((status, _),) = await asked([raw_http.chat(OWN)], keys=KEYED)
  assert status == 401
  requests = [raw_http.chat(OWN, "Host: evil.example"), preflight(OWN)]
  assert [status for status, _ in await asked(requests)] == [403, 204]


async def test_what_a_page_wants_to_send_is_repeated_only_as_names():
  odd = "Access-Control-Request-Headers: a, b; <script>"
  ((status, headers),) = await asked([preflight(OWN, odd)])
  assert status == 204 and "access-control-allow-headers" not in headers


async def test_without_named_pages_nothing_is_said_of_them():
  found = await asked([preflight(OWN), raw_http.chat()], allow_origins=())
  assert [status for status, _ in found] == [403, 200]
  assert not any("access-control" in k for _, h in found for k in h)
  assert "vary" not in found[1][1]


def listing(body: str) -> web.Application:
  async def models(_):
    return web.Response(text=body, content_type="application/json")

  return application(models)


async def test_one_model_is_found_by_its_name():
  data = [{"id": n, "object": "model"} for n in ("small", "org/Large-2")]
  async with proxy(listing(json.dumps({"data": data}))) as p:
    models = p.client.models
    for name in ("small", "org/Large-2"):
      found = await models.retrieve(name)
      assert (found.id, found.object) == (name, "model")
    for name in ("tiny", "small/x", "../metrics"):
      with pytest.raises(openai.NotFoundError, match="does not exist"):
        await models.retrieve(name)


@pytest.mark.parametrize("body", ["{}", '{"data": 3}', '{"data": [3]}', "["])
async def test_a_list_that_is_none_is_no_model(body):
  async with proxy(listing(body)) as p:
    status, text = await p.get("/v1/models/small")
    assert status == 502 and "cannot be understood" in text


async def test_an_error_of_the_list_is_the_answer_for_one_model():
  async with proxy(upstream(api_key="sk-other")) as p:
    status, text = await p.get("/v1/models/stub")
    assert status == 401 and "error" in json.loads(text)


KEPT = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


@pytest.mark.parametrize("extra", [{}, {"n": 2}])
async def test_headers_that_a_stream_needs_are_kept(extra):
  async def chat(request, stream, _):
    response = await begin_stream(request, KEPT | {"X-Internal": "secret"})
    await write_word(response, "a")
    return response

  async with proxy(working(chat)) as p:
    status, _, headers = await p.post(stream=True, **extra)
    assert status == 200 and "X-Internal" not in headers
    assert {key: headers[key] for key in KEPT} == KEPT
