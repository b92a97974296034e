"""The search itself: gepa's engine over our rollouts and our reflection.

Nothing is restored from gepa: a run that starts again searches again from its
seed, and reads in its history what was decided before. So everything here
depends on that, the replies and the config alone:

  round N   what the run had used and spent when it began; of that come what is
            kept for choosing and the test, and the spend of a candidate that
            the round before it accepted
  ended     why the search is over: it is replayed to its end, no further

gepa wants a number for every problem. One that was left out, since a model
failed, gets the mean of its evaluation's other problems, so that every mean is
that of the problems with a score; an evaluation that has a score for less than
half of its problems gets 0 for the rest. A reply without an answer has a score:
it is not right. Whether a child is better than its parent is decided on the
problems that both have a score for.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

from atlas_jax.config import PromptsConfig
from atlas_jax.data.problems import Problem
from atlas_jax.data.splits import Splits
from atlas_jax.online.calls.ledger import BudgetSpent
from atlas_jax.online.search.config import ObjectivesConfig
from atlas_jax.online.search.examples import example
from atlas_jax.online.search.files import (
  SPEND,
  Candidate,
  SearchOver,
)
from atlas_jax.online.search.plan import Budget, BudgetTooSmall
from atlas_jax.online.search.reflection import Reflector
from atlas_jax.online.search.rollouts import Rollout, Rollouts, trial

log = logging.getLogger(__name__)
# What gepa keeps of a problem: its split, and itself.
Item = tuple[str, Problem]


class _Escaping(BaseException):
  """Carries an error past gepa, which swallows any Exception of a proposal."""


@dataclass(eq=False)
class Search:
  """One search; also gepa's adapter, acceptance and stop condition.

  All of its parts are those of the run.
  """

  sets: Splits
  rollouts: Rollouts
  reflector: Reflector
  budget: Budget

  def __post_init__(self):
    self.config, self.journal = self.rollouts.config, self.rollouts.journal

  def run(self) -> str:
    """Searches to the end; the reason why it ended.

    Raises:
      SearchFailed: the reflection model failed.
      RolloutError: the student or the teacher did.
      BudgetTooSmall: the seed could not be evaluated.
    """
    journal = self.journal
    ended = journal.ended = journal.record.read("ended")
    self.budget.keep()
    try:
      self._optimize()
    except (SearchOver, BudgetSpent) as error:
      if not journal.candidates:
        raise BudgetTooSmall(
          f"the seed could not be evaluated: {error}; raise config.caps"
        ) from None
      why = ended or str(error)
    journal.ended = None
    journal.record.commit("ended", why)
    journal.write()
    log.info("the search ended: %s", why)
    return why

  def _optimize(self) -> None:
    """Never returns: the search ends by SearchOver, or what `run` raises."""
    import gepa

    c = self.config.search
    try:
      gepa.optimize(
        seed_candidate={x: getattr(self.config.prompts, x) for x in c.evolve},
        trainset=[("train", p) for p in self.sets.train],
        valset=[("validation", p) for p in self.sets.validation],
        adapter=self,
        reflection_minibatch_size=self.config.sizes.minibatch,
        acceptance_criterion=self,
        perfect_score=perfect(self.config.objectives),
        stop_callbacks=self._begin_round,
        logger=SimpleNamespace(log=functools.partial(log.debug, "%s")),
        track_best_outputs=False,
        seed=self.config.seed,
        raise_on_exception=True,
      )
    except _Escaping as escaping:
      raise escaping.__cause__ from None

  # gepa's stop condition: it asks before each round.

  def _begin_round(self, state) -> bool:
    """Begins a round; first journals what the one before it accepted, if any.

    Raises:
      SearchOver: it was the last one.
    """
    record, ledger = self.journal.record, self.budget.ledger
    done, candidates = state.i + 1, self.journal.candidates
    key = f"round {done + 1}"
    paid = record.read(key)
    if paid is None:
      spent = {name: getattr(ledger.spent, name) for name in SPEND}
      paid = {"used": ledger.used(), "spent": spent, "begun": False}
      record.commit(key, paid)
    if len(candidates) < len(state.program_candidates):
      candidates.append(self._accepted(state, paid["spent"]))
      if not paid["begun"]:
        self.journal.write()
    c = self.config.search
    if done >= c.max_rounds:
      raise SearchOver(f"config.search.max_rounds={c.max_rounds} are done")
    if len(candidates) >= c.max_candidates:
      raise SearchOver(
        f"config.search.max_candidates={c.max_candidates} were accepted"
      )
    if paid["begun"]:  # in an earlier process, and goes on
      self.budget.keep(paid["used"])
    elif self.journal.ended is not None:
      raise SearchOver(self.journal.ended)
    else:
      self.budget.begin_round(paid["used"])
      record.commit(key, paid | {"begun": True})
    return False

  def _accepted(self, state, spent: Mapping) -> Candidate:
    index = len(self.journal.candidates)
    parents = state.parent_program_for_candidate[index]
    prompts = self._prompts(state.program_candidates[index])
    known = self._made(prompts, self.sets.validation, "validation")
    score = state.program_full_scores_val_set[index]
    log.info("candidate %d: %.4f on validation", index, score)
    return Candidate(
      index=index,
      parents=tuple(p for p in parents if p is not None),
      round=state.i + 1,
      prompts=prompts,
      score=score,
      scores={r.problem.id: r.score for r in known if r.score is not None},
      **spent,
    )

  # gepa's adapter.

  def _prompts(self, texts: Mapping[str, str]) -> PromptsConfig:
    """All four templates: those of a candidate, and those held fixed."""
    return replace(self.config.prompts, **texts)

  def _made(self, *of) -> list[Rollout]:
    return self.rollouts.evaluate(trial(*of))

  def evaluate(self, batch: Sequence[Item], candidate, capture_traces=False):
    from gepa.core.adapter import EvaluationBatch

    del capture_traces  # they cost nothing here
    problems, split = [problem for _, problem in batch], batch[0][0]
    made = self._made(self._prompts(candidate), problems, split)
    return EvaluationBatch(outputs=made, scores=filled(made), trajectories=made)

  def make_reflective_dataset(self, candidate, eval_batch, components):
    del candidate
    # gepa takes dicts, and swallows what is raised here: they are read later.
    rows = [{"rollout": rollout} for rollout in eval_batch.trajectories]
    return dict.fromkeys(components, rows)

  def propose_new_texts(self, candidate, reflective_dataset, components):
    (name,) = components
    rows = reflective_dataset[name]
    try:
      limit = self.config.reflection.max_example_chars
      shown = [example(row["rollout"], limit) for row in rows]
      text = self.reflector.propose(candidate, name, shown)
    except Exception as error:
      raise _Escaping from error
    return {} if text is None else {name: text}

  # gepa's acceptance criterion.

  def should_accept(self, proposal, state) -> bool:
    """Whether a child scores more on the problems of both.

    Children that do not are shown to the reflection model.
    """
    before, after = proposal.eval_before.outputs, proposal.eval_after.outputs
    pairs = [
      (b.score, a.score)
      for b, a in zip(before, after, strict=True)
      if b.score is not None and a.score is not None
    ]
    old, new = sum(b for b, _ in pairs), sum(a for _, a in pairs)
    accepted = 2 * len(pairs) >= len(before) and new > old
    if not accepted:
      (parent,) = proposal.parent_program_ids
      why = f"tried: it scored {new:.3g} where its parent scored {old:.3g}"
      self.reflector.refused += [
        (name, text, why)
        for name, text in proposal.candidate.items()
        if text != state.program_candidates[parent][name]
      ]
    return accepted


def filled(rollouts: Sequence[Rollout]) -> list[float]:
  """Scores for gepa; see the module for what stands in a gap."""
  known = [r.score for r in rollouts if r.score is not None]
  gap = sum(known) / len(known) if 2 * len(known) >= len(rollouts) > 0 else 0.0
  return [gap if r.score is None else r.score for r in rollouts]


def perfect(objectives: ObjectivesConfig) -> float:
  """The score from which on there is nothing to learn from a rollout.

  All but the efficiency, where there is another objective: no response saves
  all of its tokens. Less a rounding error.
  """
  o = objectives
  others = o.accuracy + o.non_degradation + o.completion
  return others / (others + o.efficiency) - 1e-9 if others > 0 else 1.0
