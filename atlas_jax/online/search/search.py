"""The search itself: gepa's engine over our rollouts and our reflection.

Nothing is restored from gepa: a run that starts again searches again from its
seed, and the record answers what was answered before. So everything here
depends on the replies, the config and the spend alone.

A round that is done is replayed whatever the caps say by then, and a search
that has ended is replayed to its end and no further.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atlas_jax.config import PromptsConfig
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.calls import BudgetSpent
from atlas_jax.online.calls.notes import Notes
from atlas_jax.online.search.budget import Budget, SearchOver, length
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.gepa_adapter import (
  Acceptance,
  Loader,
  make_adapter,
  with_templates,
)
from atlas_jax.online.search.journal import Candidate, Journal
from atlas_jax.online.search.reflection import Reflector
from atlas_jax.online.search.rollouts import Job, Rollouts

log = logging.getLogger(__name__)


class SearchFailed(AtlasError):
  """The reflection model does not work; the text says how to go on."""


class _Log:
  """gepa's logger: what it says is for the curious."""

  def log(self, message: str) -> None:
    log.debug("%s", message)


@dataclass
class _Watch:
  """gepa's callback: notes what was evaluated on validation."""

  search: "Search"

  def on_valset_evaluated(self, event) -> None:
    self.search.accepted.append(event)


@dataclass
class Search:
  """One search.

  Args:
    config, rollouts, reflector, budget, journal, notes: of the run.
    on_accepted: called after each acceptance, when the files are written.
  """

  config: OnlineConfig
  rollouts: Rollouts
  reflector: Reflector
  budget: Budget
  journal: Journal
  notes: Notes
  on_accepted: Callable[[], None]

  def __post_init__(self):
    self.accepted: list[dict] = []
    self.ended: str | None = None
    self._rounds = -1  # done; -1: not even the seed is evaluated
    # By earlier processes of the run.
    done = self.notes.read("rounds")
    self._replayed = -1 if done is None else done
    self._end = self.notes.read("ended")
    if self._end is not None:
      self.reflector.most_calls = self._end["reflections"]

  def run(self) -> str:
    """Searches to the end; the reason why it ended.

    Raises:
      SearchFailed: the reflection model failed.
      RolloutError: the student or the teacher did.
    """
    import gepa

    c = self.config.search
    seed = {name: getattr(self.config.prompts, name) for name in c.evolve}
    self.reflector.memory.tried.add(tuple(sorted(seed.items())))
    sets = self.budget.sets
    try:
      gepa.optimize(
        seed_candidate=seed,
        trainset=Loader("train", sets.train),
        valset=Loader("validation", sets.validation),
        adapter=make_adapter(
          self.rollouts,
          self.config.prompts,
          self._before,
          self.config.reflection.max_example_chars,
        ),
        reflection_strategy=self.reflector,
        reflection_minibatch_size=self.config.sizes.minibatch,
        candidate_selection_strategy=c.parents,
        module_selector=c.update,
        acceptance_criterion=Acceptance(self.reflector.memory),
        perfect_score=self._perfect(),
        stop_callbacks=self._stop,
        callbacks=[_Watch(self)],
        logger=_Log(),
        track_best_outputs=False,
        seed=self.config.seed,
        raise_on_exception=True,
      )
    except (SearchOver, BudgetSpent) as error:
      self.ended = str(error)
      self._note()
    if self.reflector.failed:
      raise SearchFailed(
        f"{self.ended}. Nothing is lost: the same command goes on from here"
      )
    if self._end is not None:
      self.ended = self._end["why"]
    elif self.journal.candidates:
      self.notes.write(
        "ended",
        {
          "rounds": self._rounds,
          "why": self.ended,
          "reflections": self.reflector.calls,
        },
        final=True,
      )
    return self.ended

  def _perfect(self) -> float:
    """The score from which on there is nothing to learn from a rollout.

    All but the efficiency, where there is another objective: no response
    saves all of its tokens. Less a rounding error.
    """
    o = self.config.objectives
    others = o.accuracy + o.non_degradation + o.completion
    return others / (others + o.efficiency) - 1e-9 if others > 0 else 1.0

  def _before(self, jobs: list[Job]) -> None:
    """No evaluation begins that the budget cannot end."""
    # gepa evaluates in its loop, and would swallow an error of its callbacks.
    self._note()
    if self._checks([job.prompts for job in jobs]):
      self.budget.check(self.budget.evaluation(jobs), "the next evaluation")

  def _checks(self, new: Sequence[PromptsConfig]) -> bool:
    """Whether the caps decide what follows; sets aside what choosing takes."""
    if self._end is not None:
      return False
    self.budget.hold(self._choosable(new))
    return self._rounds >= self._replayed

  def _choosable(self, new: Sequence[PromptsConfig]) -> list[PromptsConfig]:
    """The prompts that choosing may meet: seed, best ones, longest new one."""
    best_of = self.config.choosing.best_of
    found = [self.config.prompts, *sorted(new, key=length)[-1:]]
    found += [c.prompts for c in self.journal.best(best_of)]
    return list(dict.fromkeys(found))[: best_of + 1]

  def _stop(self, state) -> bool:
    """gepa asks before each round."""
    self._note()
    c = self.config.search
    self._rounds = state.i + 1
    if self._rounds > self._replayed:
      self.notes.write("rounds", self._rounds)
    if self._end is not None and self._rounds >= self._end["rounds"]:
      return True
    if self.reflector.stopped is not None:
      self.ended = self.reflector.stopped
    elif self._rounds >= c.max_rounds:
      self.ended = f"config.search.max_rounds={c.max_rounds} are done"
    elif len(self.journal.candidates) >= c.max_candidates:
      self.ended = (
        f"config.search.max_candidates={c.max_candidates} were accepted"
      )
    else:
      if self._checks([]):
        self.budget.check(self.budget.round(), "a round")
      return False
    return True

  def _note(self) -> None:
    """Journals what was accepted since the last call."""
    for event in self.accepted[len(self.journal.candidates) :]:
      prompts = with_templates(self.config.prompts, event["candidate"])
      job = Job(prompts, self.budget.sets.validation, "validation")
      known = self.rollouts.known(job)
      snapshot = self.budget.ledger.snapshot()
      self.journal.candidates.append(
        Candidate(
          index=event["candidate_idx"],
          parents=tuple(event["parent_ids"]),
          round=event["iteration"],
          prompts=prompts,
          score=event["average_score"],
          scores={r.problem.id: r.score for r in known},
          calls=snapshot.calls,
          tokens=snapshot.tokens,
          dollars=snapshot.dollars,
        )
      )
      log.info(
        "candidate %d (of %s): %.4f on validation",
        event["candidate_idx"],
        ", ".join(map(str, event["parent_ids"])) or "nobody",
        event["average_score"],
      )
      self.journal.write()
      self.on_accepted()
