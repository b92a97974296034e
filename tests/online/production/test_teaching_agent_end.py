"""The end of a TeachingAgent, and of a program that leaves it open."""

import os
import queue
import subprocess
import sys
import threading

import pytest

from atlas_jax.online import TeachingAgent
from atlas_jax.online.production.teaching_agent import AgentFailed
from tests.online.production.proxied import PROMPTS, teacher


def test_who_still_asks_is_told_that_it_was_closed():
  asked, leave = threading.Event(), threading.Event()

  def hangs(prompt):
    asked.set()
    leave.wait(60)

  def ask():
    try:
      taught.ask("1+1?")
    except AgentFailed as error:
      told.put(str(error))

  told = queue.SimpleQueue()
  with teacher() as teach:
    taught = TeachingAgent(hangs, teach.url, PROMPTS)
    threading.Thread(target=ask, daemon=True).start()
    assert asked.wait(60)
    taught.close()
    assert told.get(timeout=20).endswith("hangs: closed meanwhile")
    # Closed once more, or used again: nothing of before is in the way.
    taught.close()
    leave.set()
    with pytest.raises(AgentFailed, match="empty"):
      taught.ask("1+1?")
    taught.close()


_PROGRAM = """
import sys, threading, time
from atlas_jax.online import TeachingAgent
from tests.online.production.proxied import PROMPTS

slowly = threading.Event()

def agent(prompt):
  if "slow" in prompt:
    slowly.set()
    time.sleep(60)
  return "re " + prompt

agent = TeachingAgent(agent, sys.argv[1], PROMPTS)
print(agent.ask("1+1?"), agent.counts["taught"])
"""
_STILL_ASKS = """
threading.Thread(target=agent.ask, args=("slow",), daemon=True).start()
slowly.wait(60)
"""


@pytest.mark.parametrize("last", ["", _STILL_ASKS], ids=["idle", "asking"])
def test_a_program_that_does_not_close_it_ends_in_silence(tmp_path, last):
  script = tmp_path / "program.py"
  script.write_text(_PROGRAM + last, encoding="utf-8")
  with teacher() as teach:
    done = subprocess.run(
      [sys.executable, script, teach.url],
      env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
      capture_output=True,
      text=True,
      timeout=120,
    )
  assert (done.stdout, done.stderr) == ("re GUIDED 1+1? BY count twice 1\n", "")


def test_a_teacher_that_repeats_its_key_does_not_teach_it():
  key, prompts = "sk-teacher-key", []

  def agent(prompt):
    prompts.append(prompt)
    return "2"

  text = f"<teaching>count {key} twice</teaching>"
  with (
    teacher(text) as teach,
    TeachingAgent(agent, teach.url, PROMPTS, teacher_key=key) as taught,
  ):
    assert taught.ask("1+1?").outcome == "taught"
  assert "count *** twice" in prompts[1] and key not in prompts[1]
