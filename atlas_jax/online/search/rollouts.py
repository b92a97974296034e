"""Candidates against problems: who is asked what, once, and what it scored.

A rollout is one problem under one set of prompts: a walk of the teaching
protocol. All rollouts of an evaluation are in flight together; the endpoints
bound how many are asked at one time. Equal requests are made once in a run: the
unaided solution of all candidates, the probe of all with its template.

1. A model that failed is never scored. A problem where one did, or that could
   not be judged, is tried a second time; then it is left out: its score is
   None, for the rest of the run.
2. When more than half of an evaluation's rollouts have none because models
   failed, nothing could be judged because the user's verifier failed, or no
   problem of validation or test under the seed prompts has a score, the run
   stops.
3. When an evaluation ends, what it left out is committed, under its content:
   the same command leaves out the same, finds all answers and verdicts in the
   record, and asks nobody. One that stopped the run, or was broken off, was
   never committed: its failures are tried again.
4. A reply that came without words is an answer: it is not right.
"""

import asyncio
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from atlas_jax.config import PromptsConfig
from atlas_jax.data.problems import Problem
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.ledger import BudgetSpent
from atlas_jax.online.search import scoring
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.files import Journal, key_of
from atlas_jax.online.search.models import Models
from atlas_jax.teaching import transcripts
from atlas_jax.teaching.prompts import Prompts, fingerprint
from atlas_jax.teaching.protocol import (
  Question,
  TeachingEpisode,
  TeachingProtocol,
  wait_all,
)
from atlas_jax.teaching.rewards import ScoredEpisode, score_episodes
from atlas_jax.teaching.speakers import NoAnswer

_GO_ON = "Run the same command again to go on"


class RolloutError(AtlasError):
  """Too few answers came back to compare anything; the text says why."""


@dataclass(frozen=True)
class Rollout:
  """One problem under one set of prompts.

  scored, objectives and score are None where it is left out; `why` says why.
  down: a model failed. split is where the problem is from.
  """

  prompts: PromptsConfig
  problem: Problem
  split: str
  replicate: int = 0
  scored: ScoredEpisode | None = None
  objectives: Mapping[str, float] | None = None
  score: float | None = None
  why: str | None = None
  down: bool = False

  @property
  def key(self) -> tuple:
    return self.prompts, self.problem.id, self.replicate


def trial(
  prompts: PromptsConfig,
  problems: Iterable[Problem],
  split: str,
  replicate: int = 0,
) -> list[Rollout]:
  """Rollouts that are to be made: some problems under some prompts."""
  return [Rollout(prompts, p, split, replicate) for p in problems]


@dataclass
class Rollouts:
  """Makes rollouts, and remembers them for the rest of the run.

  Args:
    models: who is asked.
    config, checker, journal: of the run; the journal gets every rollout that
      has a score, in the order of the trials.
  """

  models: Models
  config: OnlineConfig
  checker: scoring.KeptChecker
  journal: Journal
  _done: dict[tuple, Rollout] = field(default_factory=dict, init=False)

  def evaluate(self, trials: Sequence[Rollout]) -> list[Rollout]:
    """The trials, made together.

    Raises:
      BudgetSpent: the ledger has no room. What was under way was waited for
        and is in the record.
      RolloutError: too few came back; see the rules of the module.
    """
    wanted = {r.key: r for r in trials}
    new = {k: r for k, r in wanted.items() if k not in self._done}
    key = key_of("evaluation", *((fingerprint(k[0]), *k[1:]) for k in new))
    whys = self.journal.read(key) if new else []
    if whys is None:
      found = self._made(new)  # then, once more, what came to nothing
      failed = [k for k, r in found.items() if r.scored is None]
      found |= self._made({k: new[k] for k in failed})
      self._check(found.values())
    else:
      found = {
        k: replace(r, why=why)
        for (k, r), why in zip(new.items(), whys, strict=True)
      }
      found |= self._made({k: r for k, r in found.items() if r.why is None})
    done = self._done | found
    of_seed = [
      done[r.key].score
      for r in wanted.values()
      if r.prompts == self.config.prompts and r.split != "train"
    ]
    if of_seed and all(score is None for score in of_seed):
      raise RolloutError(
        f"no {trials[0].split} problem could be judged under the seed"
        f" prompts. {_GO_ON}"
      )
    if whys is None:
      whys = [None if r.scored else r.why for r in found.values()]
      self.journal.record.commit(key, whys)
    self._done = done
    for rollout in found.values():
      if rollout.scored is not None:
        self.journal.write_episode(rollout.split, _row(rollout))
    return [done[r.key] for r in trials]

  def _check(self, made: Collection[Rollout]) -> None:
    """Raises RolloutError by the second rule of the module."""
    down = [r for r in made if r.down]
    failure = self.checker.failure
    if 2 * len(down) > len(made):
      raise RolloutError(
        f"{len(down)} of {len(made)} problems got no answer, the first:"
        f" {down[0].why}. {_GO_ON}"
      )
    if failure is not None and all(r.scored is None for r in made):
      raise RolloutError(
        f"none of {len(made)} problems could be judged; the last failure:"
        f" {failure}. {_GO_ON}"
      )

  def _made(self, new: Mapping[tuple, Rollout]) -> dict[tuple, Rollout]:
    """Rollouts, once tried."""
    episodes = self.models.loop.run(self._episodes(new.values()))
    answered = [e for e in episodes if not isinstance(e, NoAnswer)]
    scoring.warn_of_equals(answered)
    scored = iter(
      score_episodes(
        answered,
        checker=self.checker,
        config=scoring.REWARD,
        max_teaching_tokens=self.config.episode.max_teaching_tokens,
      )
    )
    return {
      key: replace(rollout, why=str(episode), down=True)
      if isinstance(episode, NoAnswer)
      else self._rollout(rollout, next(scored))
      for (key, rollout), episode in zip(new.items(), episodes, strict=True)
    }

  def _rollout(self, rollout: Rollout, scored: ScoredEpisode) -> Rollout:
    objectives = scoring.objectives_of(scored)
    if objectives is None:
      return replace(rollout, why="the verifier gave no verdict")
    leaked = scored.teachings[0].leaked
    return replace(
      rollout,
      scored=scored,
      objectives=objectives,
      score=scoring.score_of(objectives, leaked, self.config.objectives),
    )

  async def _episodes(
    self, rollouts: Collection[Rollout]
  ) -> list[TeachingEpisode | NoAnswer]:
    c, models = self.config, self.models
    protocols = {
      prompts: TeachingProtocol(
        models.student,
        models.teacher,
        Prompts(prompts, c.episode.stated_probe_tokens),
        c.episode,
        agent_chars=c.agent_probe_chars if c.agent_mode else None,
        gather=wait_all,
      )
      for prompts in {r.prompts for r in rollouts}
    }

    def walk(r: Rollout) -> Awaitable[TeachingEpisode]:
      problem, seed = r.problem, (c.seed,)
      asked = Question(problem.question, problem.id, seed, r.replicate)
      return protocols[r.prompts].episode(problem, asked)

    work = map(walk, rollouts)
    results = await asyncio.gather(*work, return_exceptions=True)
    errors = [r for r in results if isinstance(r, BaseException)]
    errors = [e for e in errors if not isinstance(e, NoAnswer)]
    for error in sorted(errors, key=lambda e: isinstance(e, BudgetSpent)):
      raise error
    return results


def _row(rollout: Rollout) -> dict:
  """A scored rollout as a line of the episodes."""
  return transcripts.episode_json(rollout.scored, 0) | {
    "prompts": fingerprint(rollout.prompts),
    "replicate": rollout.replicate,
    "score": rollout.score,
    "objectives": rollout.objectives,
  }
