"""TeachingAgent around functions, with a teacher on a real HTTP server."""

import asyncio
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from atlas_jax.online import TeachConfig, TeachingAgent, Wording
from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.ledger import BudgetSpent
from atlas_jax.online.production.teaching_agent import AgentFailed
from atlas_jax.teaching.prompts import PromptError
from tests.online.production.proxied import (
  PROMPTS,
  TEACHING,
  contents,
  refusal,
  teacher,
)
from tests.online.stub_server import StubServer


def agent(prompt: str) -> str:
  """Answers with the first word of the prompt."""
  return f"re {prompt.split()[0]}"


def listener(asked: list):
  """The same, and keeps each prompt."""

  def listens(prompt: str) -> str:
    asked.append(prompt)
    return agent(prompt)

  return listens


def test_an_agent_is_taught_after_its_own_answer():
  listens = listener(asked := [])
  with teacher() as teach, TeachingAgent(listens, teach.url, PROMPTS) as taught:
    answer = taught.ask("1+1?")
    assert (str(answer), answer.outcome) == ("re GUIDED", "taught")
    assert answer.probe == "re ALONE"
    assert answer.teaching.text == "count twice"
    assert taught.counts == {"taught": 1}
  assert asked == ["ALONE 1+1?", "GUIDED 1+1? BY count twice"]
  assert contents(teach) == ["TEACH 1+1? FROM re ALONE"]


def test_prompts_from_a_file_and_a_template_of_the_agents_own(tmp_path):
  path = tmp_path / "best_prompts.json"
  path.write_text(json.dumps({"prompts": PROMPTS}))
  with teacher() as teach:
    for prompts in (path, str(path)):
      with TeachingAgent(
        lambda prompt: prompt,
        teach.url,
        prompts,
        inject="NOTE {teaching} FOR {question}",
      ) as taught:
        assert taught.ask("1+1?").text == "NOTE count twice FOR 1+1?"
  with pytest.raises(PromptError, match=r"\{teaching\} is missing"):
    TeachingAgent(agent, "http://x/v1", PROMPTS, inject="{question}")
  with pytest.raises(PromptError, match="nowhere"):
    TeachingAgent(agent, "http://x/v1", tmp_path / "nowhere")


def test_what_is_neither_agent_nor_teacher_is_refused():
  with pytest.raises(TypeError, match="agent must be"):
    TeachingAgent("my agent", "http://x/v1", PROMPTS)
  with pytest.raises(TypeError, match="teacher must be"):
    TeachingAgent(agent, 3, PROMPTS)


def test_an_async_agent_in_its_own_loop():
  async def asks(prompt):
    await asyncio.sleep(0)
    return agent(prompt)

  async def main():
    taught = TeachingAgent(asks, teach.url + "/v1#stub", PROMPTS)
    answers = await asyncio.gather(*(taught.aask(f"{i}?") for i in range(8)))
    await taught.aclose()
    return {answer.text for answer in answers}, taught.counts

  with teacher() as teach:
    assert asyncio.run(main()) == ({"re GUIDED"}, {"taught": 8})


def test_it_blocks_inside_a_running_loop_and_from_threads():
  with teacher() as teach, TeachingAgent(agent, teach.url, PROMPTS) as taught:

    async def notebook():
      return taught.ask("1+1?").text

    assert asyncio.run(notebook()) == "re GUIDED"
    with ThreadPoolExecutor(8) as pool:
      answers = list(pool.map(taught.ask, ["1+1?"] * 16))
    assert {a.text for a in answers} == {"re GUIDED"}
    assert taught.counts == {"taught": 17}
  # What is asked twice is sampled twice: nothing is answered from memory.
  assert len(teach.calls) == 17


def test_first_questions_of_several_threads_share_one_loop(monkeypatch):
  def loops():
    return sum(t.name == "requests" for t in threading.enumerate())

  before, opens = loops(), asyncio.new_event_loop

  def slowly():
    time.sleep(0.2)  # all threads are here before the first has its loop
    return opens()

  with (
    teacher() as teach,
    TeachingAgent(agent, teach.url, PROMPTS) as taught,
    ThreadPoolExecutor(8) as pool,
  ):
    monkeypatch.setattr(asyncio, "new_event_loop", slowly)
    answers = list(pool.map(taught.ask, ["1+1?"] * 8))
    assert {answer.text for answer in answers} == {"re GUIDED"}
    assert loops() == before + 1


def test_a_teaching_that_a_filter_cut_is_none():
  choice = {
    "message": {"content": TEACHING},
    "finish_reason": "content_filter",
  }
  answer = {"choices": [choice]}
  with (
    StubServer(lambda _: web.json_response(answer)) as teach,
    TeachingAgent(agent, teach.url + "/v1#stub", PROMPTS) as taught,
  ):
    assert taught.ask("1+1?").text == "re ALONE"


NEWER = Wording(max_tokens_key="max_completion_tokens", send_temperature=False)


def test_a_teacher_is_asked_in_the_words_that_it_takes():
  with (
    teacher() as teach,
    TeachingAgent(agent, teach.url, PROMPTS, wording=NEWER) as taught,
  ):
    assert taught.ask("1+1?").outcome == "taught"
  (call,) = teach.calls
  words = call.body.keys() - {"model", "messages"}
  assert words == {"max_completion_tokens"}


@pytest.mark.parametrize(
  ("status", "mend"),
  [(400, "see wording"), (401, "see teacher_key"), (404, "see teacher")],
)
def test_a_teacher_that_refuses_is_logged_once(status, mend, caplog):
  def refuses(messages):
    return web.json_response({"error": f"no: {messages}"}, status=status)

  with (
    StubServer(refuses) as teach,
    TeachingAgent(
      agent, teach.url, PROMPTS, teacher_key="sk-teacher"
    ) as taught,
  ):
    for _ in range(3):
      assert taught.ask("a private question").outcome == "alone_down"
  (line,) = [r.getMessage() for r in caplog.records if "HTTP" in r.message]
  assert f"HTTP {status}; {mend}" in line and teach.url in line
  assert "private" not in caplog.text and "sk-key" not in caplog.text


@pytest.mark.parametrize("name", [None, "hosted_vllm/stub"])
def test_a_teacher_that_redirects_is_named_once(name, caplog, monkeypatch):
  key = "sk-abcdefghijkl1234567890"
  away = {"Location": f"http://elsewhere.example/{key}/private?key={key}"}

  def redirects(_):
    return web.Response(status=302, headers=away)

  with StubServer(redirects) as teach:
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", teach.url + "/v1")
    named = name or teach.url + "/v1#stub"
    late = {"teacher_key": key, "teach_deadline_s": 60.0}  # LiteLLM's import
    with TeachingAgent(agent, named, PROMPTS, **late) as taught:
      for _ in range(3):
        assert taught.ask("private 1+1?").outcome == "alone_down"
  (line,) = [r.getMessage() for r in caplog.records if "redirect" in r.message]
  assert (name or teach.url) in line and "to http://elsewhere.example," in line
  assert key not in caplog.text and "private" not in caplog.text


class Opened:
  """An open agent or model of somebody's own, which may raise.

  word: a prompt that begins so raises.
  """

  name = "opened"

  def __init__(self, error: Exception | None = None, word: str = ""):
    self.error, self.word = error, word
    self.roles, self.closed = [], threading.Event()

  async def ask(self, request):
    self.roles.append(request.role)
    if self.error is not None and request.prompt.startswith(self.word):
      raise self.error
    return Reply("ok", agent(request.prompt))

  async def aclose(self):
    self.closed.set()


PRIVATE = "a private question"


@pytest.mark.parametrize(
  ("teaches", "outcome"),
  [
    *((teacher(text), "alone_bad_teaching") for text in ("no tags", "")),
    (teacher(latency_s=60), "alone_late"),
    ("http://127.0.0.1:9/v1#gone", "alone_down"),
    (Opened(BudgetSpent("config.budget.calls=5")), "alone_down"),
    (Opened(ConnectionError(PRIVATE)), "alone_down"),
    (Opened(KeyError(PRIVATE)), "alone_down"),
  ],
)
def test_without_a_teaching_the_first_answer_is_the_answer(
  teaches, outcome, caplog
):
  with contextlib.ExitStack() as stack:
    if isinstance(teaches, StubServer):
      teaches = stack.enter_context(teaches).url
    changes = {"teach_deadline_s": 0.2} if outcome == "alone_late" else {}
    taught = TeachingAgent(listener(asked := []), teaches, PROMPTS, **changes)
    with taught:
      answer = taught.ask("1+1?")
      assert (answer.text, answer.outcome) == ("re ALONE", outcome)
      assert taught.counts == {outcome: 1}
  assert asked == ["ALONE 1+1?"] and "private" not in caplog.text
  if isinstance(teaches, Opened) and PRIVATE in str(teaches.error):
    assert f"{type(teaches.error).__name__} at " in caplog.text


@pytest.mark.parametrize("name", ["http://x/v1", "openai/stub"])
@pytest.mark.parametrize("key", ["sk-t\r", "sk-t\n", "sk\0t"])
def test_a_key_with_a_control_character_is_refused_at_once(name, key):
  with pytest.raises(ConfigError, match="teacher_key holds a line") as error:
    TeachingAgent(agent, name, PROMPTS, teacher_key=key)
  assert "sk" not in str(error.value)


def fails_when_taught(prompt):
  if prompt.startswith("GUIDED"):
    raise ConnectionError("gone")
  return "<think>hm</think>two"


@pytest.mark.parametrize(
  ("fails", "text"),
  [
    (fails_when_taught, "two"),
    (Opened(ValueError(PRIVATE), "GUIDED"), "re ALONE"),
  ],
)
def test_an_agent_that_fails_under_the_teaching_keeps_its_first_answer(
  fails, text, caplog
):
  with teacher() as teach, TeachingAgent(fails, teach.url, PROMPTS) as taught:
    answer = taught.ask("1+1?")
    assert (answer.text, answer.outcome) == (text, "alone_taught_failed")
    assert answer.teaching.text == "count twice"
    assert answer.teaching.taught is None
  assert "private" not in caplog.text


@pytest.mark.parametrize("returned", [None, " ", 3, ValueError("no")])
def test_an_agent_without_an_answer_is_an_error(returned):
  def fails(prompt):
    if isinstance(returned, Exception):
      raise returned
    return returned

  with teacher() as teach, TeachingAgent(fails, teach.url, PROMPTS) as taught:
    with pytest.raises(AgentFailed, match="fails"):
      taught.ask("1+1?")
    assert taught.counts == {}
  assert teach.calls == []


def test_an_open_agent_and_how_the_teacher_is_sampled():
  opened = Opened()
  changes = {
    "teach": TeachConfig(max_teaching_tokens=7, teacher_temperature=0.25),
    "teacher_key": "sk-t",
  }
  with (
    teacher() as teach,
    TeachingAgent(opened, teach.url, PROMPTS, **changes) as taught,
  ):
    assert taught.ask("1+1?").outcome == "taught"
  assert opened.roles == ["student_baseline", "student_taught"]
  assert opened.closed.is_set()
  (call,) = teach.calls
  assert (call.body["max_tokens"], call.body["temperature"]) == (7, 0.25)
  assert call.headers["Authorization"] == "Bearer sk-t"


@pytest.mark.slow  # LiteLLM takes seconds to import
def test_a_teacher_by_its_litellm_name(monkeypatch):
  changes = {"teacher_key": "sk-t", "teach_deadline_s": 60.0}
  with teacher(api_key="sk-t") as teach:
    monkeypatch.setenv("OPENAI_API_BASE", teach.url + "/v1")
    for wording in (Wording(), NEWER):
      with TeachingAgent(
        agent, "openai/stub", PROMPTS, wording=wording, **changes
      ) as taught:
        assert taught.ask("1+1?").outcome == "taught"
  assert "max_tokens" in teach.calls[0].body
  assert "max_tokens" not in teach.calls[1].body
  with pytest.raises(ConfigError, match="no provider for 'nobody'"):
    TeachingAgent(agent, "nobody", PROMPTS)


def test_no_question_waits_for_the_pause_that_a_teacher_asks_for():
  def busy(_):
    return refusal(429, headers={"Retry-After": "60"})

  began = time.monotonic()
  with (
    StubServer(busy) as stub,
    TeachingAgent(agent, stub.url, PROMPTS) as ours,
  ):
    assert [ours.ask(f"{n}?").outcome for n in range(3)] == ["alone_down"] * 3
    assert len(stub.calls) == 1
  assert time.monotonic() - began < 9  # of the 10 s that one may wait
