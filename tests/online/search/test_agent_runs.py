"""Whole runs whose student is an agent: over HTTP, a function, a command."""

import inspect
import sys

import pytest

from atlas_jax.teaching.prompts import load_prompts
from tests.online import small_world
from tests.online.agents.serving import Serving
from tests.online.stub_server import StubServer
from tests.online.whole_runs import read, run

# Quick to start: it imports nothing of the project.
_COMMAND = f"""\
import re, sys
{inspect.getsource(small_world.student)}
print(student(sys.stdin.read()))
"""


@pytest.fixture
def agent(request, tmp_path):
  """Keys of the config for an agent of the kind that is asked for."""
  if request.param == "http":
    with Serving(lambda seen: small_world.student(seen.json["q"])) as server:
      yield {
        "agent__http__url": server.url,
        "agent__http__body": {"q": "{prompt}"},
      }
  elif request.param == "python":
    yield {
      "agent__python__target": "tests.online.small_student:student",
      "agent__python__own_process": True,
    }
  else:
    script = tmp_path / "agent.py"
    script.write_text(_COMMAND, encoding="utf-8")
    yield {"agent__cli__argv": (sys.executable, str(script))}


@pytest.mark.parametrize(
  ("kind", "agent"),
  [
    ("http", "http"),
    pytest.param("python", "python", marks=pytest.mark.slow),
    pytest.param("cli", "cli", marks=pytest.mark.slow),
  ],
  indirect=["agent"],
)
def test_the_prompt_that_matters_is_found_for_an_agent(kind, agent, tmp_path):
  sizes = {"sizes__validation": 6, "sizes__test": 12, "search__max_rounds": 3}
  with StubServer(small_world.answer) as stub:
    workdir = run(tmp_path, stub.url, agent__kind=kind, **sizes, **agent)
    prompts = [call.body["messages"][-1]["content"] for call in stub.calls]
  # The stub is teacher and reflection model; the agent's own answer, with its
  # final number, is the plan that is read.
  assert all(p.startswith(("TEACH", "You improve")) for p in prompts)
  taught = [p for p in prompts if p.startswith("TEACH")]
  assert taught and all("so <solution>" in p for p in taught)
  facts = read(workdir / "report" / "optimize.json")
  alone, seed, kept = (arm["accuracy"] for arm in facts["evaluation"]["arms"])
  assert alone == seed < kept == 1
  assert load_prompts(workdir / "best_prompts.json").teacher == (
    small_world.GOOD
  )
  roles = {line["role"] for line in read(workdir / "costs.json")}
  assert "student_baseline" in roles and "student_probe" not in roles
