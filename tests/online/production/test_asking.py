"""How the proxy asks a teacher and an upstream, and what it logs of them."""

import json

import openai
import pytest
from aiohttp import web

from atlas_jax.online.production import answering
from tests.online.production.proxied import (
  TEACHING,
  application,
  proxy,
  refusal,
  teacher,
  upstream,
  whole,
)
from tests.online.stub_server import StubServer


def said(reason="stop", **usage):
  choice = {"message": {"content": TEACHING}, "finish_reason": reason}
  return json.dumps({"choices": [choice], "usage": usage})


@pytest.mark.parametrize(
  ("body", "outcome"),
  [
    (said(completion_tokens="12"), "taught"),
    (said(completion_tokens=-1), "taught"),
    (said(completion_tokens=10**30), "taught"),
    (said(None), "taught"),
    # A filter has let a part of it through.
    (said("content_filter"), "alone_bad_teaching"),
    (said("abort"), "alone_down"),
    (said(7), "alone_down"),
    (said().replace("count", "\\ud800"), "alone_down"),
    ("[" * 100_000, "alone_down"),
    ('{"choices": [{"message": "x"}]}', "alone_down"),
  ],
)
async def test_an_odd_reply_of_the_teacher(body, outcome):
  def answer(_):
    return web.Response(text=body, content_type="application/json")

  async with proxy(upstream(), StubServer(answer), breaker_failures=1) as p:
    word = "GUIDED" if outcome == "taught" else "ALONE"
    assert await p.ask() == (outcome, f"re {word}")
    # A teacher that answered, whatever it was, is well.
    health = await p.health()
    well = outcome != "alone_down"
    assert health["teacher"]["circuit"] == ("closed" if well else "open")


def breaks(*_, **__):
  raise LookupError("a private question")


async def test_where_teaching_breaks_the_student_answers(monkeypatch, caplog):
  monkeypatch.setattr(answering, "TeachingProtocol", breaks)
  async with proxy() as p:
    assert await p.ask() == ("alone_down", "re ALONE")
  assert "LookupError at " in caplog.text and "private" not in caplog.text


async def test_a_proxy_that_breaks_says_so_as_openai_does(monkeypatch, caplog):
  monkeypatch.setattr(answering, "read_chat", breaks)
  async with proxy() as p:
    with pytest.raises(openai.InternalServerError) as error:
      await p.ask()
    assert error.value.body["message"] == "the proxy failed"
    assert await p.counts() == {"failed": 1}
  assert "LookupError at " in caplog.text and "private" not in caplog.text


def newer(words: str) -> web.Application:
  """A model that takes neither max_tokens nor a temperature."""

  async def chat(request):
    body = await request.json()
    for key in ("max_tokens", "temperature"):
      if key in body:
        error = {"message": f"{key} in {body['messages']}", "param": key}
        return web.json_response({"error": error}, status=400)
    assert body["max_completion_tokens"] > 0
    return whole(words)

  return application(chat)


async def test_servers_that_want_newer_words_get_them():
  words = {"max_tokens_key": "max_completion_tokens", "send_temperature": False}
  servers = newer("re"), newer(TEACHING)
  async with proxy(*servers, sent=words, teaches=words) as p:
    question = {"max_tokens": openai.omit, "max_completion_tokens": 9}
    assert await p.ask(**question) == ("taught", "re")


WORDING = "max_tokens_key, .send_temperature and .send_seed"


@pytest.mark.parametrize(
  ("status", "mend"),
  [
    (400, f"config.teacher.{WORDING}"),
    (422, f"config.teacher.{WORDING}"),
    (401, "config.teacher.api_key_env"),
    (403, "config.teacher.api_key_env"),
    (404, "config.teacher.url and config.teacher.model"),
  ],
)
async def test_a_teacher_that_is_refused_for_good_is_logged_once(
  status, mend, caplog
):
  sent = [status, 500, status, 500]

  def refuses(messages):
    return refusal(sent[len(p.teach.calls) - 1], f"no: {messages}")

  async with proxy(upstream(), StubServer(refuses), breaker_failures=9) as p:
    for _ in sent:
      assert (await p.ask("a private question"))[0] == "alone_down"
  lines = [r.getMessage() for r in caplog.records if "HTTP" in r.message]
  line = "the teacher: answers a request of ours with HTTP "
  mended = f"{line}{status}; see {mend} (logged once)"
  assert lines == [mended, f"{line}500 (logged once)"]
  assert "private" not in caplog.text


@pytest.mark.parametrize("sends", [True, False])
async def test_the_seed_of_a_client_goes_with_every_request(sends):
  word = {"send_seed": sends}
  async with proxy(sent=word, teaches=word) as p:
    assert (await p.ask(seed=4))[0] == "taught"
    assert (await p.ask())[0] == "taught"
  seeds = [call.body.get("seed") for call in (*p.up.calls, *p.teach.calls)]
  own = 4 if sends else None
  assert seeds == [own, 4, None, None, own, None]


async def test_v1_is_added_to_a_bare_host():
  with upstream() as up, teacher() as teach:
    bare = {"sent": {"url": up.url}, "teaches": {"url": teach.url}}
    async with proxy(up.url, teach.url, **bare) as p:
      assert (await p.ask())[0] == "taught"
