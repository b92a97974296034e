"""The snippets of configs/README.md on functions of one's own, run."""

import pathlib
import re

import pytest

from atlas_jax import targets
from atlas_jax.config import default_config, resolve
from atlas_jax.data import splits
from atlas_jax.data.problems import make_problem
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.rewards import score_episodes
from tests.teaching.own_episodes import episode

GUIDE = pathlib.Path(__file__).parents[1] / "configs" / "README.md"


@pytest.fixture
def config(tmp_path, monkeypatch):
  """The config that all snippets make, beside their files."""
  monkeypatch.chdir(tmp_path)
  tree = default_config()
  text = GUIDE.read_text(encoding="utf-8")
  snippets = re.findall(
    r"^```python\n# (.+?)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
  )
  for name, code in snippets:
    # The judge's verifier stands last; that of a program is asked by name.
    if name == "in a config":
      exec(code, {"config": tree})
    else:
      (tmp_path / name).write_text(code, encoding="utf-8")
  return resolve(tree)


def test_the_source(config):
  found = splits.load(config.data)
  problems = found.train + found.validation + found.test
  assert len(problems) == 500
  assert {p.verifier for p in problems} == {"my_judge.py:judge"}


def test_the_term(config):
  with AnswerChecker(data=config.data) as checker:
    (scored,) = score_episodes(
      [episode("two words", "one")],
      checker=checker,
      config=config.reward,
      max_teaching_tokens=50,
    )
  parts = [t.reward.parts["brevity"] for t in scored.teachings]
  assert parts == pytest.approx([-0.01, -0.005])


def test_the_verifier(config):
  def said(program):
    problem = make_problem(
      "Write double.",
      "assert double(2) == 4",
      verifier="my_verifier.py:unit_test",
    )
    text = f"So:\n```python\n{program}\n```\n"
    return checker.check(problem, text, "stop").score

  with AnswerChecker(data=config.data) as checker:
    assert said("def double(x):\n  return 2 * x") == 1.0
    assert said("def double(x):\n  return x") == 0.0


def test_the_judge(config):
  judge = targets.load(config.data.verifier, "config.data.verifier")
  assert type(judge).__name__ == "Judge"
