"""Candidates that choosing compares, in worlds where some of them help."""

import contextlib
import dataclasses

from atlas_jax.online.search import choosing, comparing
from atlas_jax.online.search.files import Candidate
from tests.online import small_world
from tests.online.opened_run import opened
from tests.online.stub_server import StubServer


def texts(config, template):
  return dataclasses.replace(config.prompts, teacher=template)


@contextlib.contextmanager
def contest(folder, answer, scores, **changes):
  """A run whose journal holds a seed and candidates 'TEACH i ...'."""
  with (
    StubServer(answer) as stub,
    opened(folder, stub.url, **changes) as run,
  ):
    for i, score in enumerate(scores):
      prompts = run.config.prompts
      if i:
        prompts = texts(run.config, f"TEACH {i} {{question}} {{probe}}")
      scores_of = {p.id: score for p in run.sets.validation}
      run.journal.candidates.append(
        Candidate(i, (0,) * bool(i), i, prompts, score, scores_of, 0, 0, 0.0)
      )
    yield run, stub


def choose(run):
  c = run.config
  fresh, dropped = choosing.score_again(run.rollouts, run.sets)
  best = choosing.pick(fresh, c.choosing.non_degradation_floor)
  test = comparing.compare(run.rollouts, run.sets, best.candidate)
  return choosing.decide(c, fresh, dropped, best, *test)


def chosen(folder, answer, scores, **changes):
  """The choice of a contest."""
  with contest(folder, answer, scores, **changes) as (run, _):
    return choose(run)


def world(*helpful, breaks=()):
  """Candidate i's teaching says 'carry' to every student if it is helpful;
  that of one that breaks makes the student err where it was right."""

  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith("TEACH"):
      name = prompt.split()[1]
      if name in map(str, helpful):
        return "<teaching>carry</teaching>"
      if name in map(str, breaks):
        return "<teaching>break</teaching>"
      return f"<teaching>think {name}</teaching>"
    text = small_world.student(prompt)
    if "break" in prompt:
      a = int(prompt.split("+")[0].split()[-1])
      # Right on the odd, which it is not alone; wrong on every fourth.
      right = a % 4 != 0
      return f"so <solution>{2 * a + 100 + (not right)}</solution>"
    return text

  return answer
