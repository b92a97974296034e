"""Candidates against problems: who is asked what, once, and what it scored.

A rollout is one problem under one set of prompts: a walk of the teaching
protocol. All rollouts of a call are in flight together; the endpoints bound
how many are asked at one time. Equal requests are made once in a run: the
unaided solution of all candidates, the probe of all with its template. A
rollout that was scored is never made again.

A model that failed is never scored. A problem where one did is tried a second
time; then it is left out: its score is None. When more than half of a call's
rollouts have none because models failed, the run stops. A reply that came
without words is an answer: it is not right.
"""

import asyncio
import collections
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from atlas_jax.config import PromptsConfig
from atlas_jax.data.problems import Problem
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.calls import BudgetSpent
from atlas_jax.online.search import scoring
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.serving.events import EventLoop
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.protocol import (
  Question,
  TeachingEpisode,
  TeachingProtocol,
  sampling,
  wait_all,
)
from atlas_jax.teaching.rewards import ScoredEpisode, score_episodes
from atlas_jax.teaching.speakers import NoAnswer, Once, Speaker

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

  scored is None where a model failed (`down`), objectives and score also where
  there was no verdict. `why` says so, and also where a solution had no words,
  which is scored.
  """

  prompts: PromptsConfig
  problem: Problem
  split: str
  replicate: int
  scored: ScoredEpisode | None = None
  objectives: Mapping[str, float] | None = None
  score: float | None = None
  why: str | None = None
  down: bool = False


@dataclass
class Rollouts:
  """Makes rollouts, and remembers them for the rest of the run.

  Args:
    student, teacher: who is asked, by coroutines of `loop`.
    config: of the run.
    loop: where they live.
    checker: judges.
    on_begin: called as an evaluation begins.
    on_scored: gets every new rollout that was scored, in the order of the
      jobs.
  """

  student: Speaker
  teacher: Speaker
  config: OnlineConfig
  loop: EventLoop
  checker: AnswerChecker
  on_begin: Callable[[], None]
  on_scored: Callable[[Rollout], None]

  def __post_init__(self):
    self._done: dict[tuple, Rollout] = {}
    self._asked: dict[tuple, asyncio.Task] = {}

  def evaluate(self, jobs: Sequence[Job]) -> list[list[Rollout]]:
    """The rollouts of each job, in the order of its problems.

    Raises:
      BudgetSpent: the ledger has no room. What was under way was waited for
        and is in the record.
      RolloutError: more than half have no answer because a model failed, or
        none has a verdict because the user's verifier did.
    """
    self.on_begin()
    wanted = {
      (job.prompts, problem.id, job.replicate): (job, problem)
      for job in jobs
      for problem in job.problems
    }
    found = {k: self._done[k] for k in wanted if k in self._done}
    for _ in range(_TRIES):
      missing = [k for k in wanted if k not in found or found[k].score is None]
      if not missing:
        break
      made = self.loop.run(self._make([wanted[k] for k in missing]))
      _warn_of_equals(made)
      found.update(zip(missing, self._judged(made), strict=True))
    for key in wanted:
      if found[key].score is not None and key not in self._done:
        self._done[key] = found[key]
        self.on_scored(found[key])
    down = [r for r in found.values() if r.down]
    if 2 * len(down) > len(found):
      raise RolloutError(
        f"{len(down)} of {len(found)} problems got no answer, the first:"
        f" {down[0].why}. Run the same command again to go on"
      )
    failure = self.checker.failure
    if failure is not None and all(r.score is None for r in found.values()):
      raise RolloutError(
        f"none of {len(found)} problems could be judged; the last failure:"
        f" {failure}. Run the same command again to go on"
      )
    return [
      [found[job.prompts, p.id, job.replicate] for p in job.problems]
      for job in jobs
    ]

  def known(self, job: Job) -> list[Rollout]:
    """The rollouts of a job that were scored, without asking anybody."""
    keys = [(job.prompts, p.id, job.replicate) for p in job.problems]
    return [self._done[k] for k in keys if k in self._done]

  def calls_needed(
    self, jobs: Sequence[Job], *, asked_before: bool = True
  ) -> list[tuple[str, int]]:
    """(role, UTF-8 bytes of its prompt that are known now) of each call that
    `jobs` would make, if every call is answered.

    asked_before: less what was asked by now.
    """
    already = self._asked if asked_before else {}
    calls = {}
    for job in jobs:
      for problem in job.problems:
        question = len(problem.question.encode())
        for role, key in self._keys(job, problem).items():
          if key not in already:
            template = getattr(job.prompts, role)
            calls[key] = role, len(template.encode()) + question
    return list(calls.values())

  def _keys(self, job: Job, problem: Problem) -> dict[str, tuple]:
    """role -> what its call depends on: rollouts with equal ones share it."""
    prompts, sample = job.prompts, (problem.id, job.replicate)
    probe, teacher = prompts.student_probe, prompts.teacher
    keys = {
      "student_baseline": ("baseline", *sample),
      "student_probe": ("probe", probe, *sample),
      "teacher": ("teach", probe, teacher, *sample),
      "student_taught": ("taught", prompts, *sample),
    }
    if self.config.agent_mode:
      del keys["student_probe"]
      return keys
    for role in ("student_baseline", "student_probe"):
      if sampling(self.config.episode, role)[1] == 0:  # greedy: all are equal
        keys[role] = keys[role][:-1]
    return keys

  async def _make(self, work) -> list[tuple]:
    """(job, problem, episode, or why there is none) for each (job, problem)."""
    tokens = self.config.episode.stated_probe_tokens
    prompts = {job.prompts: Prompts(job.prompts, tokens) for job, _ in work}
    results = await asyncio.gather(
      *(self._one(prompts[job.prompts], job, p) for job, p in work),
      return_exceptions=True,
    )
    errors = [r for r in results if isinstance(r, BaseException)]
    errors = [e for e in errors if not isinstance(e, NoAnswer)]
    for error in sorted(errors, key=lambda e: isinstance(e, BudgetSpent)):
      raise error
    return [(*w, r) for w, r in zip(work, results, strict=True)]

  async def _one(
    self, prompts: Prompts, job: Job, problem: Problem
  ) -> TeachingEpisode:
    config, keys = self.config, self._keys(job, problem)

    def key(_, ask):
      return keys[ask.role]

    protocol = TeachingProtocol(
      Once(self.student, self._asked, key),
      Once(self.teacher, self._asked, key),
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
        checker=self.checker,
        config=scoring.REWARD,
        max_teaching_tokens=self.config.episode.max_teaching_tokens,
      )
    )
    out = []
    for job, problem, episode in made:
      if isinstance(episode, NoAnswer):
        rest = {"why": str(episode), "down": True}
      else:
        rest = {"why": _wordless(episode)} | self._scores(next(scored))
      where = (job.prompts, problem, job.split, job.replicate)
      out.append(Rollout(*where, **rest))
    return out

  def _scores(self, scored: ScoredEpisode) -> dict:
    objectives = scoring.objectives_of(scored)
    if objectives is None:
      return {"scored": scored, "why": "the verifier gave no verdict"}
    (leaked,) = scored.leaked
    score = scoring.score_of(objectives, leaked, self.config.objectives)
    return {"scored": scored, "objectives": objectives, "score": score}


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
