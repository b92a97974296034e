"""Faults of models and agents, alike for every kind of them."""

import asyncio
import json
import sys

import pytest
from aiohttp import web

from atlas_jax.online.agents.build import open_agent
from atlas_jax.online.calls.calls import ModelRefused
from atlas_jax.online.calls.ledger import BudgetSpent, Caps
from tests.online.agents.asked import configured, http_agent
from tests.online.agents.sdk import chat_reply
from tests.online.agents.serving import Serving
from tests.online.calls import playing
from tests.online.opened import Run, ask, needs, request

MODELS = {
  "url": {"model": "m"},
  "litellm": {"model": "hosted_vllm/m"},
  "callable": {"model": "tests.online.calls.playing:model"},
}
AGENTS = {
  "http": http_agent("", answer="choices[0].message.content"),
  "cli": {
    "argv": (sys.executable, "-SE", playing.__file__),
    "env": ("ATLAS_PLAYED",),
  },
  "python": {"target": f"{playing.__file__}:agent"},
}
OVER_HTTP = ("url", "litellm", "http")
EVERY_KIND = pytest.mark.parametrize("kind", [*MODELS, *AGENTS])


async def serve(_) -> web.Response:
  said = playing.word()
  if said == "busy":
    return web.Response(status=503, headers={"Retry-After": "0"})
  if said == "hang":
    await asyncio.sleep(20)
  return web.json_response(chat_reply(said))


@pytest.fixture
def play(tmp_path, monkeypatch):
  """(script, kind) -> what opens it on the account of a run; calls()."""
  monkeypatch.setenv("ATLAS_PLAYED", str(tmp_path))

  class Play:
    def open(self, run, kind, *script, timeout_s=60.0, retries=1):
      if kind == "litellm":
        needs(kind)
      (tmp_path / "script").write_text(json.dumps(script))
      common = {"timeout_s": timeout_s, "retries": retries, "concurrency": 1}
      url = {"url": f"{server.url}/v1"} if kind in OVER_HTTP else {}
      if kind in MODELS:
        return run.open(kind=kind, **MODELS[kind], **url, **common)
      return open_agent(
        configured(kind, AGENTS[kind] | url, **common),
        where="config.agent",
        environ={"PATH": "/usr/bin:/bin", "ATLAS_PLAYED": str(tmp_path)},
        ledger=run.ledger,
        record=run.record,
      )

    def calls(self) -> int:
      count = tmp_path / "count"
      return len(count.read_text()) if count.exists() else 0

  with Serving(serve) as server:
    yield Play()


@EVERY_KIND
@pytest.mark.parametrize("failure", ["busy", "503 Service Unavailable"])
def test_a_failure_that_passes_by_is_tried_again(play, kind, failure):
  run = Run()
  (reply,) = ask(play.open(run, kind, failure, "42"), request())
  assert (reply.status, reply.text) == ("ok", "42")
  assert reply.failed is None and play.calls() == 2
  (line,) = run.record.costs()
  assert (line["attempts"], line["answered"]) == (2, 1)


@EVERY_KIND
def test_a_failure_is_not_kept_and_an_answer_is(play, kind):
  run = Run()
  asker = play.open(run, kind, "busy", "42", retries=0)

  async def main():
    replies = [await asker.ask(request()) for _ in range(3)]
    await asker.aclose()
    return replies

  first, second, third = asyncio.run(main())
  assert (first.status, first.text, first.failed.again) == ("error", None, True)
  assert (second.text, third.text, play.calls()) == ("42", "42", 2)
  # Only a server says that it did nothing; another may have been paid.
  assert run.ledger.lost.calls == (kind not in OVER_HTTP)


@EVERY_KIND
def test_one_without_words_is_kept_for_the_protocol(play, kind):
  run = Run()
  asker = play.open(run, kind, "")
  taught, other = request(role="student_taught"), request("x")

  async def main():
    made = []
    for one in (taught, taught, other, other):
      made.append((await asker.ask(one), play.calls()))
    await asker.aclose()
    return zip(*made, strict=True)

  replies, calls = asyncio.run(main())
  # A function or a command is asked no second time: it would say the same.
  tries = 1 if kind in ("cli", "python") else 2
  assert calls == (tries, tries, 2 * tries, 3 * tries)
  assert [r.status for r in replies] == ["empty"] * 4
  assert [r.text for r in replies] == ["", "", None, None]


@EVERY_KIND
def test_no_answer_in_time_is_lost_at_its_bound(play, kind):
  run = Run()
  asker = play.open(run, kind, "hang", timeout_s=0.5, retries=0)
  (reply,) = ask(asker, request())
  assert (reply.status, reply.text) == ("timeout", None)
  ledger = run.ledger
  assert (ledger.spent.calls, ledger.lost.calls, ledger.open.calls) == (0, 1, 0)
  assert run.record.ledger(Caps()).lost == ledger.lost


@EVERY_KIND
def test_a_spent_account_ends_all_calls_at_once(play, kind):
  run = Run()
  asker = play.open(run, kind, "Credit balance is too low", retries=3)
  ends = ask(asker, *(request(f"q {i}") for i in range(4)))
  assert {type(end) for end in ends} == {ModelRefused} and play.calls() == 1
  assert "nothing more is sent to it" in str(ends[-1])
  assert str(ends[-1]).startswith("config.")
  assert run.ledger.lost.calls == 0


@EVERY_KIND
def test_equal_requests_at_one_time_are_sent_once(play, kind):
  asker = play.open(Run(Caps(calls=1)), kind, "42")
  replies = ask(asker, *[request()] * 8)
  assert [r.text for r in replies] == ["42"] * 8 and play.calls() == 1


@EVERY_KIND
def test_a_cap_on_calls_holds_to_the_call(play, kind):
  run = Run(Caps(calls=3))
  asker = play.open(run, kind, "busy", "42")
  ends = ask(asker, *(request(f"q {i}") for i in range(5)))
  assert play.calls() == 3
  answered = [e for e in ends if not isinstance(e, BudgetSpent)]
  assert [r.text for r in answered] == ["42", "42"]
