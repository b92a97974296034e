"""Candidates against problems: who is asked what, once, and what it scored.

A rollout is one problem under one set of prompts: a walk of the teaching
protocol. All rollouts of an evaluation are in flight together; the endpoints
bound how many are asked at one time. Equal requests are made once in a run: the
unaided solution of all candidates, the probe of all with its template.

1. A model that failed is never scored. A problem where one did, or that could
   not be judged, is tried a second time; then it is left out: its score is
   None, for the rest of the run.
2. When more than half of an evaluation's rollouts have none because models
   failed, or nothing could be judged because the user's verifier failed, the
   run stops.
3. An evaluation that ends is committed to the record, under its content: the
   same command reads it back, and nobody is asked. One that stopped the run, or
   was broken off, was never committed: its failures are tried again.
4. A reply that came without words is an answer: it is not right.
"""

import asyncio
import collections
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from atlas_jax.config import PromptsConfig, RewardConfig
from atlas_jax.data.problems import Problem
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.calls import BudgetSpent
from atlas_jax.online.search.config import ObjectivesConfig, OnlineConfig
from atlas_jax.online.search.history import History
from atlas_jax.online.search.models import Models
from atlas_jax.teaching.answers import AnswerChecker, Verdict
from atlas_jax.teaching.prompts import Prompts, fingerprint
from atlas_jax.teaching.protocol import (
  Question,
  TeachingEpisode,
  TeachingProtocol,
  wait_all,
)
from atlas_jax.teaching.rewards import ScoredEpisode, score_episodes
from atlas_jax.teaching.speakers import NoAnswer, Once

# Efficiency in full: the objectives weigh it.
_REWARD = RewardConfig(efficiency_weight=1.0)
_TRIES = 2
_ALIKE = 4  # questions whose answers are all the same: too many
log = logging.getLogger(__name__)


class RolloutError(AtlasError):
  """Too few answers came back to compare anything; the text says why."""


@dataclass(frozen=True)
class Job:
  """Some problems under some prompts. split is where the problems are from."""

  prompts: PromptsConfig
  problems: Sequence[Problem]
  split: str
  replicate: int = 0


@dataclass(frozen=True)
class Rollout:
  """One problem under one set of prompts.

  scored is None where a model failed, objectives and score also where there
  was no verdict. `why` says so, and also where a solution had no words, which
  is scored.
  """

  prompts: PromptsConfig
  problem: Problem
  split: str
  replicate: int
  scored: ScoredEpisode | None = None
  objectives: Mapping[str, float] | None = None
  score: float | None = None
  why: str | None = None


class Judge(AnswerChecker):
  """Judges each response once in a run, unless there was no verdict."""

  def __init__(self, **options):
    super().__init__(**options)
    self._known: dict[tuple[str, str, str], Verdict] = {}

  def check_many(
    self, items: Iterable[tuple[Problem, str, str]]
  ) -> list[Verdict]:
    """As AnswerChecker's."""
    items = list(items)
    asked = {(p.id, *said): (p, *said) for p, *said in items}
    new = [key for key in asked if key not in self._known]
    made = dict(
      zip(new, super().check_many([asked[k] for k in new]), strict=True)
    )
    self._known |= {k: v for k, v in made.items() if v.score is not None}
    found = self._known | made
    return [found[p.id, *said] for p, *said in items]

  def learn(self, scored: ScoredEpisode) -> None:
    """Keeps the verdicts of an earlier process."""
    episode = scored.episode
    taught = [t.taught for t in episode.teachings]
    for said, verdict in zip(
      (*episode.baseline, *taught),
      (*scored.baseline, *scored.taught),
      strict=True,
    ):
      if verdict.score is not None:
        key = (episode.problem.id, said.text, said.finish_reason)
        self._known[key] = verdict


class Rollouts:
  """Makes rollouts, and remembers them for the rest of the run.

  Args:
    models: who is asked.
    config: of the run.
    judge: of the solutions.
    history: of the run.
    on_scored: gets every rollout that has a score, in the order of the jobs.
  """

  def __init__(
    self,
    models: Models,
    config: OnlineConfig,
    judge: Judge,
    history: History,
    on_scored: Callable[[Rollout], None],
  ):
    self._models, self._config, self._judge = models, config, judge
    self._history, self._on_scored = history, on_scored
    self._done: dict[tuple, Rollout] = {}
    self._asked: dict[tuple, asyncio.Task] = {}

  def evaluate(
    self, jobs: Sequence[Job], needed: PromptsConfig | None = None
  ) -> list[list[Rollout]]:
    """The rollouts of each job, in the order of its problems.

    Args:
      jobs: what is evaluated together.
      needed: prompts under which there must be a score.

    Raises:
      BudgetSpent: the ledger has no room. What was under way was waited for
        and is in the record.
      RolloutError: too few came back; see the rules of the module.
    """
    wanted = {
      (job.prompts, problem.id, job.replicate): (job, problem)
      for job in jobs
      for problem in job.problems
    }
    new = {k: w for k, w in wanted.items() if k not in self._done}
    found, key = {}, _content(new)
    stored = self._history.read(key) if new else None
    if stored is not None:
      found = self._read(new, stored)
    elif new:
      found = self._make(new)
      self._check(found.values())
    everyone = [found.get(k) or self._done[k] for k in wanted]
    of_needed = [r.score for r in everyone if r.prompts == needed]
    if of_needed and all(score is None for score in of_needed):
      raise RolloutError(
        f"no {everyone[0].split} problem could be judged under the seed"
        " prompts. Run the same command again to go on"
      )
    if found and stored is None:
      self._history.commit(key, _stored(found.values()))
    self._done |= found
    for rollout in found.values():
      if rollout.score is not None:
        self._on_scored(rollout)
    return [
      [self._done[job.prompts, p.id, job.replicate] for p in job.problems]
      for job in jobs
    ]

  def _check(self, made: Collection[Rollout]) -> None:
    """Raises RolloutError by the second rule of the module."""
    down = [r for r in made if r.scored is None]
    failure = self._judge.failure
    if 2 * len(down) > len(made):
      why = (
        f"{len(down)} of {len(made)} problems got no answer, the first:"
        f" {down[0].why}"
      )
    elif failure is not None and all(r.score is None for r in made):
      why = (
        f"none of {len(made)} problems could be judged; the last failure:"
        f" {failure}"
      )
    else:
      return
    raise RolloutError(f"{why}. Run the same command again to go on")

  def _make(self, new: Mapping[tuple, tuple]) -> dict[tuple, Rollout]:
    found: dict[tuple, Rollout] = {}
    for _ in range(_TRIES):
      again = [k for k in new if k not in found or found[k].score is None]
      if again:
        made = self._models.loop.run(self._episodes([new[k] for k in again]))
        _warn_of_equals(made)
        found.update(zip(again, self._judged(made), strict=True))
    return {k: found[k] for k in new}

  async def _episodes(self, work) -> list[tuple]:
    """(job, problem, episode, or why there is none) for each (job, problem)."""
    tokens = self._config.episode.stated_probe_tokens
    prompts = {job.prompts: Prompts(job.prompts, tokens) for job, _ in work}
    results = await asyncio.gather(
      *(self._episode(prompts[job.prompts], job, p) for job, p in work),
      return_exceptions=True,
    )
    errors = [r for r in results if isinstance(r, BaseException)]
    errors = [e for e in errors if not isinstance(e, NoAnswer)]
    for error in sorted(errors, key=lambda e: isinstance(e, BudgetSpent)):
      raise error
    return [(*w, r) for w, r in zip(work, results, strict=True)]

  async def _episode(
    self, prompts: Prompts, job: Job, problem: Problem
  ) -> TeachingEpisode:
    config, models = self._config, self._models
    protocol = TeachingProtocol(
      Once(models.student, self._asked, lambda *asked: asked),
      Once(models.teacher, self._asked, lambda *asked: asked),
      prompts,
      config.episode,
      agent_chars=config.agent_probe_chars if config.agent_mode else None,
      gather=wait_all,
    )
    question = Question(
      problem.question, problem.id, (config.seed,), job.replicate
    )
    return await protocol.episode(problem, question)

  def _judged(self, made) -> list[Rollout]:
    scored = iter(
      score_episodes(
        [e for *_, e in made if not isinstance(e, NoAnswer)],
        checker=self._judge,
        config=_REWARD,
        max_teaching_tokens=self._config.episode.max_teaching_tokens,
      )
    )
    return [
      self._rollout(job, problem, None, str(e))
      if isinstance(e, NoAnswer)
      else self._rollout(job, problem, next(scored), _wordless(e))
      for job, problem, e in made
    ]

  def _rollout(
    self, job: Job, problem: Problem, scored: ScoredEpisode | None, why
  ) -> Rollout:
    rollout = Rollout(
      job.prompts, problem, job.split, job.replicate, scored, why=why
    )
    if scored is None:
      return rollout
    objectives = objectives_of(scored)
    if objectives is None:
      return replace(rollout, why="the verifier gave no verdict")
    (leaked,) = scored.leaked
    score = score_of(objectives, leaked, self._config.objectives)
    return replace(rollout, objectives=objectives, score=score)

  def _read(self, new: Mapping[tuple, tuple], stored) -> dict[tuple, Rollout]:
    """Rollouts as they were committed."""
    for (_, problem), (scored, _) in zip(new.values(), stored, strict=True):
      if scored is not None:
        scored["episode"]["problem"] = problem
    found = {}
    for (key, work), (scored, why) in zip(
      new.items(), _adapter().validate_python(stored), strict=True
    ):
      if scored is not None:
        self._judge.learn(scored)
      found[key] = self._rollout(*work, scored, why)
    return found


def _content(keys: Iterable[tuple]) -> str:
  """What an evaluation is of: equal ones are made once in a run."""
  named = [(fingerprint(prompts), *rest) for prompts, *rest in keys]
  digest = hashlib.sha256(json.dumps(named).encode()).hexdigest()
  return f"evaluation {digest}"


@functools.cache
def _adapter():
  """Between (episode with its verdicts, why) and JSON."""
  from pydantic import TypeAdapter

  return TypeAdapter(list[tuple[ScoredEpisode | None, str | None]])


def _stored(rollouts: Iterable[Rollout]) -> list:
  """Rollouts as JSON; their problems are those of the run."""
  return _adapter().dump_python(
    [(r.scored, r.why) for r in rollouts],
    mode="json",
    exclude={"__all__": {0: {"episode": {"problem"}}}},
  )


def objectives_of(scored: ScoredEpisode) -> dict[str, float] | None:
  """What the search may look at, each in [0, 1]; None without a verdict.

  accuracy         the taught solution is right
  non_degradation  it is not worse than the unaided one
  efficiency       the share of the unaided response's tokens that a right
                   taught one saved
  completion       it states an answer
  """
  (verdict,), (reward,) = scored.taught, scored.rewards
  if reward.total is None:
    return None
  return {
    "accuracy": verdict.score,
    "non_degradation": float(verdict.score >= scored.pass_rate),
    "efficiency": reward.parts["efficiency"],
    "completion": float(verdict.completed),
  }


def score_of(
  objectives: Mapping[str, float], leaked: bool, config: ObjectivesConfig
) -> float:
  """The weighted mean of the objectives, less for a teaching that leaks."""
  weights = {name: getattr(config, name) for name in objectives}
  mean = sum(weights[n] * value for n, value in objectives.items())
  mean /= sum(weights.values())
  return max(0.0, mean - config.leak_penalty * leaked)


def _wordless(episode: TeachingEpisode) -> str | None:
  """The solution without words, if there is one."""
  (alone,), (teaching,) = episode.baseline, episode.teachings
  for stage, said in (("baseline", alone), ("taught", teaching.taught)):
    if not said.text:
      return f"{stage}: empty"
  return None


def _warn_of_equals(made) -> None:
  """A line for each role that answers different questions with one text."""
  texts = collections.defaultdict(dict)
  for _, problem, episode in made:
    if isinstance(episode, NoAnswer):
      continue
    (alone,), (teaching,) = episode.baseline, episode.teachings
    for role, said in (
      ("student_baseline", alone),
      ("teacher", teaching.said),
      ("student_taught", teaching.taught),
    ):
      if said.text and said.finish_reason == "stop":
        texts[role][problem.question] = said.text
  for role, by_question in texts.items():
    if len(by_question) >= _ALIKE and len(set(by_question.values())) == 1:
      text = next(iter(by_question.values()))
      log.warning(
        "all answers of %s to %d questions are the same, %.80r: if that is a"
        " failure, the agent's failure_regex can say so",
        *(role, len(by_question), text),
      )
