"""The proxy between servers with odd replies, wishes, addresses and ports."""

import dataclasses
import json
import socket

import openai
import pytest
from aiohttp import web

from atlas_jax.config import ConfigError, build, tree_of
from atlas_jax.episode_config import TeachConfig
from atlas_jax.online.production.proxy import answering
from atlas_jax.online.production.proxy.app import serve
from atlas_jax.online.production.proxy.config import (
  ChatServerConfig,
  ProxyConfig,
  UpstreamConfig,
)
from tests.online.proxied import (
  TEACHING,
  application,
  run,
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
def test_an_odd_reply_of_the_teacher(body, outcome):
  async def check(proxied):
    word = "GUIDED" if outcome == "taught" else "ALONE"
    assert await proxied.ask() == (outcome, f"re {word}")
    # A teacher that answered, whatever it was, is well.
    health = json.loads((await proxied.get("/health"))[1])
    well = outcome != "alone_down"
    assert health["teacher"]["circuit"] == ("closed" if well else "open")

  def answer(_):
    return web.Response(text=body, content_type="application/json")

  with upstream() as up, StubServer(answer) as teach:
    run(check, up, teach, breaker_failures=1)


def breaks(*_, **__):
  raise LookupError("a private question")


def test_where_teaching_breaks_the_student_answers(monkeypatch, caplog):
  async def check(proxied):
    assert await proxied.ask() == ("alone_down", "re ALONE")

  monkeypatch.setattr(answering, "TeachingProtocol", breaks)
  with upstream() as up, teacher() as teach:
    run(check, up, teach)
  assert "LookupError at " in caplog.text and "private" not in caplog.text


def test_a_proxy_that_breaks_says_so_as_openai_does(monkeypatch, caplog):
  async def check(proxied):
    with pytest.raises(openai.InternalServerError) as error:
      await proxied.ask()
    assert error.value.body["message"] == "the proxy failed"
    assert await proxied.counts() == {"failed": 1}

  monkeypatch.setattr(answering, "read_chat", breaks)
  with upstream() as up, teacher() as teach:
    run(check, up, teach)
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


NEWER = {"max_tokens_key": "max_completion_tokens", "send_temperature": False}


def test_servers_that_want_newer_words_get_them():
  async def check(proxied):
    question = {"max_tokens": openai.omit, "max_completion_tokens": 9}
    assert await proxied.ask(**question) == ("taught", "re")

  run(check, newer("re"), newer(TEACHING), sent=NEWER, teaches=NEWER)


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
def test_a_teacher_that_is_refused_for_good_is_logged_once(
  status, mend, caplog
):
  def refuses(messages):
    error = {"message": f"no: {messages}"}
    return web.json_response({"error": error}, status=status)

  async def check(proxied):
    for _ in range(3):
      assert (await proxied.ask("a private question"))[0] == "alone_down"

  with upstream() as up, StubServer(refuses) as teach:
    run(check, up, teach, breaker_failures=9)
  assert len(teach.calls) == 3
  (line,) = [r.getMessage() for r in caplog.records if "HTTP" in r.message]
  assert f"the teacher: answers a request of ours with HTTP {status}" in line
  assert f"; see {mend} (logged once)" in line
  assert "private" not in caplog.text


def test_each_kind_of_refusal_is_logged(caplog):
  statuses = [401, 500, 401, 404, 500]

  def refuses(_):
    status = statuses[len(teach.calls) - 1]
    return web.json_response({"error": "no"}, status=status)

  async def check(proxied):
    for _ in statuses:
      await proxied.ask()

  with upstream() as up, StubServer(refuses) as teach:
    run(check, up, teach, breaker_failures=9)
  lines = [r.getMessage() for r in caplog.records if "HTTP" in r.message]
  found = [line.partition("HTTP ")[2][:3] for line in lines]
  assert found == ["401", "500", "404"]


@pytest.mark.parametrize("sends", [True, False])
def test_the_seed_of_a_client_goes_with_every_request(sends):
  async def check(proxied):
    assert (await proxied.ask(seed=4))[0] == "taught"
    assert (await proxied.ask())[0] == "taught"

  word = {"send_seed": sends}
  with upstream() as up, teacher() as teach:
    run(check, up, teach, sent=word, teaches=word)
  seeds = [call.body.get("seed") for call in (*up.calls, *teach.calls)]
  own = 4 if sends else None
  assert seeds == [own, 4, None, None, own, None]


def test_health_says_what_a_question_for_the_models_brought():
  async def check(proxied):
    status, text = await proxied.get("/health")
    health = json.loads(text)
    assert (status, health["status"]) == (200, "degraded")
    assert health["upstream"]["state"] == "HTTP 404"
    assert health["teacher"]["state"] == "HTTP 401"

  with teacher(api_key="sk-teach") as teach:
    run(check, newer("re"), teach)


def test_a_client_s_key_is_not_missed_by_health():
  async def check(proxied):
    health = json.loads((await proxied.get("/health"))[1])
    assert health["upstream"]["state"] == "up"

  with upstream(api_key="sk-client") as up, teacher() as teach:
    run(check, up, teach, sent={"forward_authorization": True})


def test_v1_is_added_to_a_bare_host():
  async def check(proxied):
    assert (await proxied.ask())[0] == "taught"

  with upstream() as up, teacher() as teach:
    run(check, up, teach, sent={"url": up.url}, teaches={"url": teach.url})


URL = "http://127.0.0.1:9/v1"


def config(*, up=URL, teach=URL, **changes):
  return ProxyConfig(
    upstream=UpstreamConfig(url=up),
    teacher=ChatServerConfig(url=teach, model="t"),
    **changes,
  )


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"up": "http://me:sk-1@a/v1"}, "config.upstream.url must hold no user"),
    ({"teach": "http://a/v1?key=sk-1"}, "config.teacher.url must hold no"),
    ({"up": "http://[a"}, "config.upstream.url must be an address"),
    ({"port": 99999}, "config.port=99999 must be from 1 to 65535"),
  ],
)
def test_an_address_or_a_port_that_cannot_be(changes, words):
  with pytest.raises(ConfigError) as error:
    build(ProxyConfig, config(**changes))
  assert words in str(error.value) and "sk-1" not in str(error.value)


NAN = float("nan")


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"body_timeout_s": 0.0}, "body_timeout_s=0.0 must be above 0"),
    ({"teach_deadline_s": NAN}, "teach_deadline_s must be a number, got nan"),
    *(
      ({"episode": TeachConfig(**{key: value})}, f"episode.{key}{words}")
      for key, value, words in (
        ("max_probe_tokens", -1, "=-1 must not be negative"),
        ("shown_probe_tokens", 0, "=0 must be above 0"),
        ("max_teaching_tokens", 0, "=0 must be above 0"),
        ("probe_temperature", -1.0, "=-1.0 must not be negative"),
        ("teacher_temperature", NAN, " must be a number, got nan"),
      )
    ),
    ({"drain_s": -1.0}, "drain_s=-1.0 must not be negative"),
  ],
)
def test_a_number_that_cannot_be(changes, words):
  tree = tree_of(dataclasses.replace(config(), **changes))
  with pytest.raises(ConfigError, match=f"^config.{words}"):
    build(ProxyConfig, tree)


def test_what_is_sampled_greedily_and_never_drained_is_well():
  changes = {
    "episode": TeachConfig(probe_temperature=0.0, teacher_temperature=0.0),
    "drain_s": 0.0,
  }
  changed = dataclasses.replace(config(), **changes)
  assert build(ProxyConfig, tree_of(changed)) == changed


def test_an_unknown_word_for_the_limit():
  server = ChatServerConfig(url=URL, model="t", max_tokens_key="tokens")
  with pytest.raises(ConfigError, match=r"config\.teacher\.max_tokens_key='to"):
    build(ProxyConfig, tree_of(ProxyConfig(teacher=server)))


def test_a_port_in_use_is_named():
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"config.port={port}: .*in use"):
      serve(config(port=port), {})
