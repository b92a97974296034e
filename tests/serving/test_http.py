"""The HTTP client policy against servers that want what is not theirs."""

import ast
import asyncio
import time
import tracemalloc

import pytest

from atlas_jax.serving import http
from atlas_jax.serving.http import (
  Redirected,
  ServerDown,
  ServerError,
  TooLarge,
)
from tests.hostile_server import (
  REDIRECTS,
  Answer,
  Hostile,
  bomb,
  breaks,
  endless,
  no_http,
  redirect,
  said,
)
from tests.source_tree import imported, modules

KEY = "sk-0123456789abcdef"
BOUND = 1 << 20


def fetched(url, method="POST", most_bytes=BOUND, **content):
  """(status, body) by the asynchronous form."""

  async def main():
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
      asyncio.timeout(30),
      http.open_session(headers=headers) as session,
      http.request(session, method, url, **content) as response,
    ):
      return response.status, await http.read(response, most_bytes)

  return asyncio.run(main())


def asked(url, method="POST", most_bytes=BOUND, **content):
  """(status, body) by the blocking form."""
  return http.ask(
    method,
    url,
    content.get("json"),
    api_key=KEY,
    timeout_s=30,
    most_bytes=most_bytes,
  )


BOTH = pytest.mark.parametrize("send", [fetched, asked])


@BOTH
def test_an_answer_is_read(send):
  with Hostile(said({"a": 1}, 404)) as server:
    assert send(server.url + "/x", json={"q": "?"}) == (404, b'{"a": 1}')
  ((method, path, headers, body),) = server.requests
  assert (method, path, body) == ("POST", "/x", b'{"q": "?"}')
  assert headers["Authorization"] == f"Bearer {KEY}"
  assert headers["Content-Type"] == "application/json"


@BOTH
@pytest.mark.parametrize("status", [300, *REDIRECTS, 304, 399])
def test_a_redirect_is_one_line_with_both_addresses(send, status):
  with Hostile() as thief:
    where = thief.url.replace("//", "//user:hidden@")
    to = redirect(status, where + "/stolen?key=hidden&path=")
    with (
      Hostile(to) as server,
      pytest.raises((Redirected, ServerError)) as caught,
    ):
      send(server.url + "/v1/chat?key=hidden", json={"q": "?"})
  text = str(caught.value)
  assert "\n" not in text and "hidden" not in text
  assert f"{server.url}/v1/chat answers {status}" in text
  assert f"{thief.url}/stolen, which is not followed" in text
  assert len(server.requests) == 1 and not thief.requests
  assert type(caught.value) is not ServerDown


@pytest.mark.parametrize(
  "location, shown",
  [
    ("//127.0.0.1:1/b", "http://127.0.0.1:1/b"),
    ("/elsewhere", "{url}/elsewhere"),
    ("file:///etc/passwd", "file:///etc/passwd"),
    ("http://[", "an address that is not valid"),
    ("http://a/\x1b[2J", "http://a/?[2J"),
  ],
)
def test_odd_locations(location, shown):
  with (
    Hostile(lambda _: Answer(307, {"Location": location})) as server,
    pytest.raises(Redirected) as caught,
  ):
    fetched(server.url)
  assert f"redirect to {shown.format(url=server.url)}," in str(caught.value)
  assert len(server.requests) == 1


NO_HTTP = no_http(KEY)


@BOTH
@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_not_repeated(send, data):
  with (
    Hostile(breaks(data)) as server,
    pytest.raises((http.Broken, ServerDown), match="broke off") as caught,
  ):
    send(server.url)
  text = str(caught.value)
  assert KEY[:4] not in text and "\n" not in text
  assert len(server.requests) == 1


@BOTH
def test_a_redirect_to_the_key(send):
  location = f"http://127.0.0.1:1/{KEY}?{KEY}"
  with (
    Hostile(lambda _: Answer(302, {"Location": location})) as server,
    pytest.raises((Redirected, ServerError)) as caught,
  ):
    send(server.url)
  assert "http://127.0.0.1:1/***, which" in str(caught.value)


def test_a_3xx_without_a_place_is_a_status():
  with Hostile(said({}, 302)) as server:
    assert fetched(server.url) == (302, b"{}")


@BOTH
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("body", [endless, bomb])
def test_too_much_is_not_read(send, body, status):
  tracemalloc.start()
  try:
    with (
      Hostile(body(status)) as server,
      pytest.raises((TooLarge, ServerError), match=f"{BOUND} bytes.*max_"),
    ):
      send(server.url)
    _, most = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert most < 8 * BOUND
  # What the sockets hold, and no more, was sent: nothing is drained.
  assert server.sent < 32 << 20


@BOTH
def test_the_bound_itself_is_read(send):
  with Hostile(lambda _: Answer(parts=[b"x" * 1000])) as server:
    assert send(server.url, most_bytes=1000) == (200, b"x" * 1000)
    with pytest.raises((TooLarge, ServerError)):
      send(server.url, most_bytes=999)


def test_bytes_one_at_a_time_take_no_more_than_they_are():
  parts = [bytes([65 + i % 26]) for i in range(3000)]
  with Hostile(lambda _: Answer(parts=parts)) as server:
    assert fetched(server.url) == (200, b"".join(parts))


def test_no_cookie_and_no_proxy(monkeypatch):
  with Hostile() as proxy:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
      monkeypatch.setenv(name, proxy.url)
    cookie = {"Set-Cookie": "seen=1; Path=/"}
    with Hostile(lambda _: Answer(headers=cookie)) as server:

      async def twice():
        async with http.open_session() as session:
          for _ in range(2):
            async with http.request(session, "GET", server.url):
              pass

      asyncio.run(twice())
      assert asked(server.url)[0] == 200
  assert len(server.requests) == 3 and not proxy.requests
  assert "seen" not in server.text


def test_the_deadline_is_of_the_whole():
  """Each read is quick, and the body has no end in sight."""
  slow = (time.sleep(0.02) or b" " for _ in range(1000))
  with (
    Hostile(lambda _: Answer(parts=slow)) as server,
    pytest.raises(ServerDown, match=r"no answer in 0\.3 s"),
  ):
    http.ask("GET", server.url, api_key=None, timeout_s=0.3)


def test_nobody_listens():
  with Hostile() as server:
    pass
  with pytest.raises(ServerDown, match="does not answer"):
    asked(server.url)


def test_of_an_error_comes_its_beginning_without_the_key():
  echo = {"error": "x" * 590 + KEY, "more": "y" * 5000}
  with Hostile(said(echo, 400)) as server:
    status, content = asked(server.url)
  assert status == 400 and len(content) == 600
  assert KEY[:8].encode() not in content and content.endswith(b"xx")


# Modules that open connections, and why they may.
OPENERS = {
  "atlas_jax.serving.http": "the policy",
  "atlas_jax.online.agents.agents_sdk": "bound by httpx_policy",
}
CLIENTS = {
  *("aiohttp.ClientSession", "aiohttp.request", "httpx.Client"),
  *("httpx.AsyncClient", "httpx.get", "httpx.post", "httpx.request"),
  *("httpx.stream", "openai.OpenAI", "openai.AsyncOpenAI"),
  *("openai.DefaultHttpxClient", "openai.DefaultAsyncHttpxClient"),
  *("urllib.request", "urllib.request.urlopen", "urllib3", "requests"),
  *("http.client", "socket.create_connection", "asyncio.open_connection"),
}


def opened(tree: ast.AST) -> set[str]:
  """Of CLIENTS, those that a module imports or calls."""
  names = imported(tree, "x", False)
  for node in ast.walk(tree):
    if isinstance(node, ast.Call):
      names.add(ast.unparse(node.func))
  return names & CLIENTS


def test_every_way_to_open_a_connection_is_seen():
  for text, name in (
    ("import urllib.request", "urllib.request"),
    ("from urllib import request", "urllib.request"),
    ("def f():\n  import requests", "requests"),
    ("aiohttp.ClientSession()", "aiohttp.ClientSession"),
    ("async def f():\n  return httpx.AsyncClient(a=1)", "httpx.AsyncClient"),
    ("from aiohttp import ClientSession as S", "aiohttp.ClientSession"),
  ):
    assert opened(ast.parse(text)) == {name}, text
  assert not opened(ast.parse("import aiohttp\naiohttp.ClientError()"))


def test_connections_are_opened_by_the_policy_alone():
  found = {
    module: opened(ast.parse(path.read_text(encoding="utf-8")))
    for module, path in modules().items()
  }
  by = {module for module, clients in found.items() if clients}
  assert by == set(OPENERS), {m: found[m] for m in by}
