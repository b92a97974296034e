"""What servers say to the proxy: redirects, echoes, bombs, pages, no end."""

import asyncio
import base64
import json
import urllib.parse

import openai
import pytest
from aiohttp import web

from atlas_jax.online.production.proxy.config import Keys
from tests import hostile_server
from tests.hostile_server import Hostile
from tests.online.asking_proxy import asked
from tests.online.proxied import (
  application,
  begin_stream,
  contents,
  run,
  teacher,
  upstream,
  whole,
)
from tests.online.stub_server import StubServer

KEY, TEACHER_KEY = 'sk-up/"stream+key', "sk-teacher-key"
KEYS = Keys(upstream=KEY, teacher=TEACHER_KEY)


def listing(chat, models=None) -> web.Application:
  """An upstream with a list of models."""
  app = application(chat)
  app.router.add_get("/v1/models", models or chat)
  return app


@pytest.mark.parametrize("status", hostile_server.REDIRECTS)
def test_no_redirect_is_followed(status, caplog):
  async def check(proxied):
    with pytest.raises(openai.InternalServerError) as error:
      await proxied.ask()
    assert error.value.status_code == 502
    words = "the upstream answered with a redirect, which is not followed"
    assert error.value.body["message"] == words
    for stream in (False, True):
      code, text, headers = await asked(proxied, stream=stream)
      assert code == 502 and "redirect" in text and "Location" not in headers
    assert (await proxied.get("/v1/models"))[0] == 502
    health = json.loads((await proxied.get("/health"))[1])
    assert health["upstream"]["state"] == health["teacher"]["state"] == "down"

  with Hostile() as thief:
    sends_on = hostile_server.redirect(status, thief.url)
    with Hostile(sends_on) as up, Hostile(sends_on) as teach:
      run(check, up, teach, keys=KEYS)
  assert thief.requests == []
  assert up.requests and "1+1" in up.text
  lines = [r.getMessage() for r in caplog.records if r.name.endswith("once")]
  assert len(lines) == 2  # once for each server
  assert up.url in lines[0] and thief.url in lines[0]


def test_a_teacher_that_redirects_teaches_nothing():
  async def check(proxied):
    assert await proxied.ask() == ("alone_down", "re ALONE")

  with Hostile() as thief:
    sends_on = hostile_server.redirect(307, thief.url)
    with upstream() as up, Hostile(sends_on) as teach:
      run(check, up, teach, keys=KEYS)
  assert thief.requests == [] and len(teach.requests) == 1


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
def test_a_key_that_is_echoed_stays_here(form, status):
  text = f'{{"error": {{"message": "sent Bearer {form(KEY)} ."}}}}'

  async def chat(request):
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    return web.Response(
      text=text,
      status=status,
      content_type="application/json",
      headers={"x-request-id": KEY, "Set-Cookie": KEY, "X-Sent": KEY},
    )

  async def check(proxied):
    for found in (await asked(proxied), await asked(proxied, stream=True)):
      assert found[0] == status and "sent Bearer " in found[1]
      assert not revealed(found[1] + str(found[2])), found
    code, text = await proxied.get("/v1/models")
    assert code == status and not revealed(text)

  with teacher() as teach:
    run(check, listing(chat), teach, keys=KEYS)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_key_that_is_echoed_in_pieces_of_a_stream_stays_here(form):
  line = f'data: {{"choices": [], "sent": "{form(KEY)}"}}\n\n'.encode()

  async def chat(request):
    response = await begin_stream(request)
    for at in range(len(line)):
      await response.write(line[at : at + 1])
      await asyncio.sleep(0)
    await response.write(line[:-2])  # the last line may have no end
    return response

  async def check(proxied):
    status, text, headers = await asked(proxied, stream=True)
    assert status == 200 and text.count('"sent"') == 2
    assert headers["Content-Type"] == "text/event-stream"
    assert not revealed(text), text

  with teacher() as teach:
    run(check, listing(chat), teach, keys=KEYS)


def test_the_teachers_key_is_not_taught():
  words = f"<teaching>count {TEACHER_KEY} twice</teaching>"

  async def check(proxied):
    assert (await proxied.ask())[0] == "taught"

  with upstream() as up, teacher(words) as teach:
    run(check, up, teach, keys=KEYS)
  assert contents(up)[1] == "GUIDED 1+1? BY count *** twice"


@pytest.mark.parametrize("forwards", [False, True])
def test_what_the_upstream_repeats_does_not_reach_the_teacher(forwards):
  key = "sk-client-key" if forwards else KEY

  async def chat(request):
    return whole(f"I was sent {request.headers['Authorization']} ...")

  async def check(proxied):
    assert (await proxied.ask())[0] == "taught"

  with teacher() as teach:
    run(
      check,
      application(chat),
      teach,
      keys=Keys(teacher=TEACHER_KEY) if forwards else KEYS,
      client_key=key,
      sent={"forward_authorization": forwards},
    )
  (prompt,) = contents(teach)
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
def test_what_no_chat_client_knows_is_an_error(status, kind, stream):
  async def chat(request):
    return web.Response(
      body=b"" if status in (204, 304) else b"<script>{}</script>",
      status=status,
      headers={"Content-Type": kind},
    )

  async def check(proxied):
    code, text, headers = await asked(proxied, stream=stream)
    error = json.loads(text)["error"]
    assert code == 502 and error["type"] == "upstream_error"
    assert error["message"].startswith("the upstream cannot be understood: ")
    assert headers["Content-Type"].startswith("application/json")
    assert (await proxied.get("/v1/models"))[0] == 502

  with teacher() as teach:
    run(check, listing(chat), teach)


@pytest.mark.parametrize("mark", ["", "\ufeff", " \n"])
def test_an_error_page_is_not_handed_on(mark):
  async def chat(request):
    page = mark + "<html>private paths</html>"
    return web.Response(text=page, status=503, content_type="text/html")

  async def check(proxied):
    status, text, _ = await asked(proxied)
    assert status == 503 and "private" not in text
    assert json.loads(text)["error"]["message"] == "HTTP 503"

  with teacher() as teach:
    run(check, listing(chat), teach)


MOST = 100_000
WITHOUT_END = {
  "endless": hostile_server.endless(),
  "endless error": hostile_server.endless(status=500),
  "bomb": hostile_server.bomb(),
  "bomb error": hostile_server.bomb(status=429),
}


@pytest.mark.parametrize("answer", WITHOUT_END.values(), ids=WITHOUT_END.keys())
def test_no_answer_is_read_without_a_bound(answer):
  async def check(proxied):
    status, text, _ = await asked(proxied)
    assert status == 502 and "max_response_bytes" in text
    assert (await proxied.get("/v1/models"))[0] == 502

  with Hostile(answer) as up, Hostile(answer) as teach:
    run(check, up, teach, max_response_bytes=MOST)
  # What lies in the buffers of two sockets, not all 64 MB of each.
  assert up.sent < 3 * (16 << 20)


def test_a_teacher_without_end_teaches_nothing():
  async def check(proxied):
    assert await proxied.ask() == ("alone_down", "re ALONE")

  with upstream() as up, Hostile(hostile_server.endless()) as teach:
    run(check, up, teach, max_response_bytes=MOST)


def test_a_reply_of_too_many_values_is_not_parsed(monkeypatch):
  many = web.Response(
    body=b"[" + b"{}," * 200_000 + b"{}]", content_type="application/json"
  )

  async def check(proxied):
    assert await proxied.ask() == ("alone_down", "re ALONE")

  with upstream() as up, StubServer(lambda _: many) as teach:
    run(check, up, teach)


async def streamed(request, part: bytes, kind="text/event-stream"):
  response = web.StreamResponse(headers={"Content-Type": kind})
  await response.prepare(request)
  while True:
    await response.write(part)
    await asyncio.sleep(0.001)


def test_a_line_of_a_stream_has_a_bound():
  async def chat(request):
    await streamed(request, b"x" * 10_000)

  async def check(proxied):
    status, text, _ = await asked(proxied, stream=True)
    # Nothing was handed on before: a plain error.
    assert status == 502 and "max_response_bytes" in text

  with teacher() as teach:
    run(check, application(chat), teach, max_response_bytes=MOST)


def test_a_stream_has_an_end():
  async def chat(request):
    await streamed(request, b'data: {"choices": []}\n\n')

  async def check(proxied):
    status, text, _ = await asked(proxied, stream=True)
    assert status == 200 and text.count("choices") > 2
    last = json.loads(text.rstrip().rpartition("data: ")[2])
    words = "the upstream did not answer in time"
    assert last["error"]["message"] == words

  with teacher() as teach:
    run(check, application(chat), teach, answer_timeout_s=0.5)


def test_a_slow_probe_says_nothing_of_the_teacher():
  async def chat(request):
    body = await request.json()
    if body["messages"][-1]["content"].startswith("PROBE"):
      await asyncio.sleep(0.6)
    return whole("ok")

  async def check(proxied):
    hows = [(await proxied.ask())[0] for _ in range(2)]
    assert hows == ["alone_late"] * 2
    health = json.loads((await proxied.get("/health"))[1])
    assert health["teacher"]["circuit"] == "closed"

  with teacher(latency_s=2.0) as teach:
    changes = {"teach_deadline_s": 1.0, "breaker_failures": 1}
    run(check, application(chat), teach, **changes)
  assert len(teach.calls) == 2


def test_a_plain_answer_that_drips_has_an_end():
  async def chat(request):
    await streamed(request, b" ", "application/json")

  async def check(proxied):
    status, text, _ = await asked(proxied)
    assert status == 504 and "did not answer in time" in text

  with teacher() as teach:
    run(check, application(chat), teach, answer_timeout_s=0.3)
