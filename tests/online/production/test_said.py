"""What servers say to the proxy: redirects, echoes, bombs, pages, no end."""

import asyncio
import base64
import json
import urllib.parse

import openai
import pytest
from aiohttp import web

from atlas_jax.online.production.config import Keys
from tests import hostile_server
from tests.hostile_server import Hostile
from tests.online.production.proxied import (
  application,
  begin_stream,
  contents,
  proxy,
  teacher,
  upstream,
  whole,
)
from tests.online.stub_server import StubServer

KEY, TEACHER_KEY = 'sk-up/"stream+key', "sk-teacher-key"
KEYS = Keys(upstream=KEY, teacher=TEACHER_KEY)


@pytest.mark.parametrize("status", hostile_server.REDIRECTS)
async def test_no_redirect_is_followed(status, caplog):
  with Hostile() as thief:
    sends_on = hostile_server.redirect(status, thief.url)
    async with proxy(Hostile(sends_on), Hostile(sends_on), keys=KEYS) as p:
      with pytest.raises(openai.InternalServerError) as error:
        await p.ask()
      assert error.value.status_code == 502
      words = "the upstream answered with a redirect, which is not followed"
      assert error.value.body["message"] == words
      for stream in (False, True):
        code, text, headers = await p.post(n=2, stream=stream)
        assert code == 502 and "redirect" in text and "Location" not in headers
      assert (await p.get("/v1/models"))[0] == 502
      health = await p.health()
      assert health["upstream"]["state"] == health["teacher"]["state"] == "down"
  assert thief.requests == []
  assert p.up.requests and "1+1" in p.up.text
  lines = [r.getMessage() for r in caplog.records if r.name.endswith("once")]
  assert len(lines) == 2  # once for each server
  assert p.up.url in lines[0] and thief.url in lines[0]


async def test_a_teacher_that_redirects_teaches_nothing():
  with Hostile() as thief:
    sends_on = hostile_server.redirect(307, thief.url)
    async with proxy(upstream(), Hostile(sends_on), keys=KEYS) as p:
      assert await p.ask() == ("alone_down", "re ALONE")
  assert thief.requests == [] and len(p.teach.requests) == 1


FORMS = {
  "plain": lambda k: k,
  "json": lambda k: json.dumps(k)[1:-1],
  "all escaped": lambda k: "".join(f"\\u{ord(c):04x}" for c in k),
  "slashes escaped": lambda k: json.dumps(k)[1:-1].replace("/", r"\/"),
  "url": urllib.parse.quote,
  "base64": lambda k: base64.b64encode(k.encode()).decode(),
  "basic": lambda k: base64.b64encode(f"user:{k}".encode()).decode(),
}


def revealed(text: str) -> bool:
  """Whether a reader of JSON finds half of the key."""
  texts = [text, text.encode().decode("unicode_escape", errors="replace")]
  texts += [t.replace("\\", "") for t in texts]
  encoded = base64.b64encode(KEY[6:].encode()).decode()[:-4]
  bare = KEY.replace('"', "")[:12]
  return any(bare in t.replace('"', "") or encoded in t for t in texts)


@pytest.mark.parametrize("status", [200, 401, 500])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
async def test_a_key_that_is_echoed_stays_here(form, status):
  text = f'{{"error": {{"message": "sent Bearer {form(KEY)} ."}}}}'

  async def chat(request):
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    return web.Response(
      text=text,
      status=status,
      content_type="application/json",
      headers={"x-request-id": KEY, "Set-Cookie": KEY, "X-Sent": KEY},
    )

  async with proxy(application(chat), keys=KEYS) as p:
    for found in (await p.post(n=2), await p.post(n=2, stream=True)):
      assert found[0] == status and "sent Bearer " in found[1]
      assert not revealed(found[1] + str(dict(found[2]))), found
    code, text = await p.get("/v1/models")
    assert code == status and not revealed(text)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
async def test_a_key_that_is_echoed_in_pieces_of_a_stream_stays_here(form):
  line = f'data: {{"choices": [], "sent": "{form(KEY)}"}}\n\n'.encode()

  async def chat(request):
    response = await begin_stream(request)
    for at in range(len(line)):
      await response.write(line[at : at + 1])
      await asyncio.sleep(0)
    await response.write(line[:-2])  # the last line may have no end
    return response

  async with proxy(application(chat), keys=KEYS) as p:
    status, text, headers = await p.post(n=2, stream=True)
    assert status == 200 and text.count('"sent"') == 2
    assert headers["Content-Type"] == "text/event-stream"
    assert not revealed(text), text


async def test_the_teachers_key_is_not_taught():
  words = f"<teaching>count {TEACHER_KEY} twice</teaching>"
  async with proxy(upstream(), teacher(words), keys=KEYS) as p:
    assert (await p.ask())[0] == "taught"
  assert contents(p.up)[1] == "GUIDED 1+1? BY count *** twice"


@pytest.mark.parametrize("forwards", [False, True])
async def test_what_the_upstream_repeats_does_not_reach_the_teacher(forwards):
  key = "sk-client-key" if forwards else KEY

  async def chat(request):
    return whole(f"I was sent {request.headers['Authorization']} ...")

  async with proxy(
    application(chat),
    keys=Keys(teacher=TEACHER_KEY) if forwards else KEYS,
    client_key=key,
    sent={"forward_authorization": forwards},
  ) as p:
    assert (await p.ask())[0] == "taught"
  (prompt,) = contents(p.teach)
  assert prompt == "TEACH 1+1? FROM I was sent Bearer *** ..."


@pytest.mark.parametrize(
  ("status", "kind", "stream"),
  [
    (200, "text/html", False),
    (200, "text/html", True),
    (200, "text/event-stream", False),
    (200, "application/octet-stream", False),
    *((code, "application/json", False) for code in (201, 204, 206, 304)),
    *((code, "application/json", True) for code in (300, 407, 418, 426, 599)),
  ],
)
async def test_what_no_chat_client_knows_is_an_error(status, kind, stream):
  async def chat(request):
    return web.Response(
      body=b"" if status in (204, 304) else b"<script>{}</script>",
      status=status,
      headers={"Content-Type": kind},
    )

  async with proxy(application(chat)) as p:
    code, text, headers = await p.post(n=2, stream=stream)
    error = json.loads(text)["error"]
    assert code == 502 and error["type"] == "upstream_error"
    assert error["message"].startswith("the upstream cannot be understood: ")
    assert headers["Content-Type"].startswith("application/json")
    assert (await p.get("/v1/models"))[0] == 502


@pytest.mark.parametrize("mark", ["", "\ufeff", " \n"])
async def test_an_error_page_is_not_passed_on(mark):
  async def chat(request):
    page = mark + "<html>private paths</html>"
    return web.Response(text=page, status=503, content_type="text/html")

  async with proxy(application(chat)) as p:
    status, text, _ = await p.post(n=2)
    assert status == 503 and "private" not in text
    assert json.loads(text)["error"]["message"] == "HTTP 503"


MOST = 100_000
WITHOUT_END = {
  "endless": hostile_server.endless(),
  "endless error": hostile_server.endless(status=500),
  "bomb": hostile_server.bomb(),
  "bomb error": hostile_server.bomb(status=429),
}


@pytest.mark.parametrize("answer", WITHOUT_END.values(), ids=WITHOUT_END.keys())
async def test_no_answer_is_read_without_a_bound(answer):
  async with proxy(
    Hostile(answer), Hostile(answer), max_response_bytes=MOST
  ) as p:
    status, text, _ = await p.post(n=2)
    assert status == 502 and "max_response_bytes" in text
    assert (await p.get("/v1/models"))[0] == 502
  # What lies in the buffers of two sockets, not all 64 MB of each.
  assert p.up.sent < 3 * (16 << 20)


async def test_a_teacher_without_end_teaches_nothing():
  async with proxy(
    upstream(), Hostile(hostile_server.endless()), max_response_bytes=MOST
  ) as p:
    assert await p.ask() == ("alone_down", "re ALONE")


async def test_a_reply_of_too_many_values_is_not_parsed(monkeypatch):
  many = web.Response(
    body=b"[" + b"{}," * 200_000 + b"{}]", content_type="application/json"
  )
  async with proxy(upstream(), StubServer(lambda _: many)) as p:
    assert await p.ask() == ("alone_down", "re ALONE")


async def streamed(request, part: bytes, kind="text/event-stream"):
  response = web.StreamResponse(headers={"Content-Type": kind})
  await response.prepare(request)
  while True:
    await response.write(part)
    await asyncio.sleep(0.001)


async def test_a_line_of_a_stream_has_a_bound():
  async def chat(request):
    await streamed(request, b"x" * 10_000)

  async with proxy(application(chat), max_response_bytes=MOST) as p:
    status, text, _ = await p.post(n=2, stream=True)
    # Nothing was passed on before: a plain error.
    assert status == 502 and "max_response_bytes" in text


async def test_a_stream_has_an_end():
  async def chat(request):
    await streamed(request, b'data: {"choices": []}\n\n')

  async with proxy(application(chat), answer_timeout_s=0.5) as p:
    status, text, _ = await p.post(n=2, stream=True)
    assert status == 200 and text.count("choices") > 2
    last = json.loads(text.rstrip().rpartition("data: ")[2])
    words = "the upstream did not answer in time"
    assert last["error"]["message"] == words


async def test_a_plain_answer_that_drips_has_an_end():
  async def chat(request):
    await streamed(request, b" ", "application/json")

  async with proxy(application(chat), answer_timeout_s=0.3) as p:
    status, text, _ = await p.post(n=2)
    assert status == 504 and "did not answer in time" in text


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


@pytest.mark.parametrize(
  "answer",
  [
    lambda: hostile_server.never_a_head(EARLY * 500),
    lambda: hostile_server.never_a_head(EARLY, 0.02),
    lambda: hostile_server.never_a_head(b"HTTP/1.1 200 OK\r\nX: y", 0.02),
  ],
)
async def test_the_head_of_an_answer_has_an_end(answer):
  """Though something comes all the time, which no silence ends."""
  async with proxy(Hostile(answer()), answer_timeout_s=0.5) as p:
    status, text, _ = await p.post(n=2)
    assert status == 504 and "did not answer in time" in text
  assert p.up.sent < 64 << 20


async def test_a_header_that_is_no_text_is_not_passed_on():

  answer = b"HTTP/1.1 429 No\r\nRetry-After: \x1b[2J\r\nx-request-id: r1\r\n"
  answer += b"Content-Length: 2\r\n\r\n{}"
  async with proxy(Hostile(hostile_server.breaks(answer))) as p:
    status, _, headers = await p.post(n=2)
    named = {name.lower(): value for name, value in headers.items()}
    assert status == 429 and named["x-request-id"] == "r1"
    assert "retry-after" not in named
