"""What gepa sees of a run: problems by id, scores, and what went wrong.

gepa wants a number for every problem. A problem that was left out, since a
model failed, gets the mean of its evaluation's other problems, so that every
mean is that of the problems with a score; an evaluation that has a score for
less than half of its problems gets 0 for the rest. A reply without an answer
has a score: it is not right. Whether a child is better than its parent is
decided on the problems that both have a score for (`Acceptance`).

gepa is imported when an adapter is made.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from atlas_jax.config import PromptsConfig
from atlas_jax.data.problems import Problem
from atlas_jax.online.search import feedback
from atlas_jax.online.search.reflection import Memory
from atlas_jax.online.search.rollouts import Job, Rollout, Rollouts


@dataclass(frozen=True)
class Example:
  """A problem of one split; its id names both, so that no two can be mixed."""

  split: str
  problem: Problem

  @property
  def id(self) -> str:
    return f"{self.split}:{self.problem.id}"


class Loader:
  """gepa's DataLoader over examples."""

  def __init__(self, split: str, problems: Sequence[Problem]):
    examples = [Example(split, p) for p in problems]
    self._by_id = {e.id: e for e in examples}

  def all_ids(self) -> list[str]:
    return list(self._by_id)

  def fetch(self, ids: Sequence[str]) -> list[Example]:
    return [self._by_id[i] for i in ids]

  def __len__(self) -> int:
    return len(self._by_id)


def filled(rollouts: Sequence[Rollout]) -> list[float]:
  """Scores for gepa; see the module for what stands in a gap."""
  known = [r.score for r in rollouts if r.score is not None]
  gap = sum(known) / len(known) if 2 * len(known) >= len(rollouts) > 0 else 0.0
  return [gap if r.score is None else r.score for r in rollouts]


def with_templates(
  prompts: PromptsConfig, candidate: Mapping[str, str]
) -> PromptsConfig:
  """All four templates: those of a candidate, and those held fixed."""
  return dataclasses.replace(prompts, **candidate)


@dataclass
class Acceptance:
  """gepa's criterion: a child must score more on the problems of both.

  Children that do not are told to the reflection model.
  """

  memory: Memory

  def should_accept(self, proposal, state) -> bool:
    before, after = proposal.eval_before.outputs, proposal.eval_after.outputs
    pairs = [
      (b.score, a.score)
      for b, a in zip(before, after, strict=True)
      if b.score is not None and a.score is not None
    ]
    old, new = (
      (sum(side) for side in zip(*pairs, strict=True)) if pairs else (0, 0)
    )
    accepted = 2 * len(pairs) >= len(before) and new > old
    if not accepted:
      (parent,) = proposal.parent_program_ids
      parent_texts = state.program_candidates[parent]
      for name, text in proposal.candidate.items():
        if text != parent_texts[name]:
          self.memory.refuse(
            name,
            text,
            f"tried: it scored {new:.3g} where its parent scored {old:.3g}",
          )
    return accepted


def make_adapter(
  rollouts: Rollouts,
  prompts: PromptsConfig,
  before: Callable[[Sequence[Job]], None],
  max_example_chars: int,
):
  """The gepa adapter of a run.

  Args:
    rollouts: who evaluates.
    prompts: where a candidate's other templates come from.
    before: called with the jobs of each evaluation; raises where there is no
      budget for it.
    max_example_chars: of one text that the reflection model is shown.
  """
  from gepa.core.adapter import EvaluationBatch, GEPAAdapter

  class Adapter(GEPAAdapter):
    def evaluate(self, batch, candidate, capture_traces=False):
      del capture_traces  # they cost nothing here
      (result,) = self.batch_evaluate([(candidate, batch)])
      return result

    def batch_evaluate(self, items):
      jobs = [
        Job(
          with_templates(prompts, candidate),
          tuple(e.problem for e in batch),
          batch[0].split,
        )
        for candidate, batch in items
      ]
      before(jobs)
      return [
        EvaluationBatch(outputs=made, scores=filled(made), trajectories=made)
        for made in rollouts.evaluate(jobs)
      ]

    def make_reflective_dataset(self, candidate, eval_batch, components):
      records = [
        feedback.record(r, max_example_chars) for r in eval_batch.trajectories
      ]
      return {name: records for name in components}

  return Adapter()
