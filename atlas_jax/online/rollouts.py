"""Candidates against problems: who is asked what, once, and what it scored.

A rollout is one problem under one set of prompts: unaided solution, probe (or
an agent's unaided answer), teaching, guided solution. All rollouts of a call
are in flight together; the endpoints bound how many are asked at one time.

What does not depend on the candidate is asked once in a run: the unaided
solution by (problem, replicate), the probe by (template, problem, replicate),
the teaching by (both templates that it depends on, problem, replicate). At
temperature 0 unaided solution and probe are the same in every replicate. A
rollout that was scored is never made again.

A model that failed is never scored. A problem where one did is tried a second
time; then it is left out: its score is None. When more than half of a call's
rollouts have none because models failed, the run stops. A reply that came
without an answer in it is one: it is not right (scoring.py).
"""

import asyncio
import collections
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from atlas_jax.config import PromptsConfig
from atlas_jax.data.problems import Problem
from atlas_jax.errors import AtlasError
from atlas_jax.online import protocol, scoring
from atlas_jax.online.config import OnlineConfig
from atlas_jax.online.replies import Agent, BudgetSpent, ChatModel, Reply
from atlas_jax.serving.events import EventLoop
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.rewards import ScoredEpisode, score_episodes

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

  scored, objectives and score are None where a model failed (`down`) or there
  was no verdict. `why` says so, and also where a reply came without an answer
  in it, which is scored.
  """

  prompts: PromptsConfig
  problem: Problem
  split: str
  replicate: int
  baseline: Reply
  taught: protocol.Taught
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

  student: Agent
  teacher: ChatModel
  config: OnlineConfig
  loop: EventLoop
  checker: AnswerChecker
  on_begin: Callable[[], None]
  on_scored: Callable[[Rollout], None]

  def __post_init__(self):
    self._done: dict[tuple, Rollout] = {}
    self._asked: dict[tuple, asyncio.Future] = {}

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
    done, already = (self._done, self._asked) if asked_before else ({}, {})
    out, counted = [], set()
    for job in jobs:
      for problem in job.problems:
        key = (job.prompts, problem.id, job.replicate)
        if key in done or key in counted:
          continue
        counted.add(key)
        roles = ["student_with_teaching"]
        for role, asked in self._keys(job, problem).items():
          if asked not in already and asked not in counted:
            counted.add(asked)
            roles.append(role)
        question = len(problem.question.encode())
        for role in roles:
          out.append(
            (role, len(getattr(job.prompts, role).encode()) + question)
          )
    return out

  def _keys(self, job: Job, problem: Problem) -> dict[str, tuple]:
    """role -> what its call depends on, of those that rollouts share."""
    probe = job.prompts.student_diagnostic
    teacher = job.prompts.teacher_adaptive
    alone = self._replicate(self.config.solution.temperature, job)
    first = self._replicate(self.config.probe.temperature, job)
    keys = {
      "student_baseline": ("baseline", problem.id, alone),
      "student_diagnostic": ("probe", probe, problem.id, first),
      "teacher_adaptive": ("teach", probe, teacher, problem.id, job.replicate),
    }
    if self.config.agent_mode:
      del keys["student_diagnostic"]
    return keys

  def _replicate(self, temperature: float, job: Job) -> int:
    """Greedy samples are all equal; an agent samples as it likes."""
    greedy = temperature == 0 and not self.config.agent_mode
    return 0 if greedy else job.replicate

  async def _make(self, work) -> list[tuple]:
    """(job, problem, baseline, taught) for each (job, problem)."""
    prompts = {job.prompts: Prompts(job.prompts) for job, _ in work}
    results = await asyncio.gather(
      *(self._one(prompts[job.prompts], job, p) for job, p in work),
      return_exceptions=True,
    )
    # What failed may be asked again; what came stays for the run.
    for key, future in list(self._asked.items()):
      failed = future.cancelled() or future.exception() is not None
      if failed or future.result().status in scoring.FAILED:
        del self._asked[key]
    errors = [r for r in results if isinstance(r, BaseException)]
    for error in sorted(errors, key=lambda e: isinstance(e, BudgetSpent)):
      raise error
    return [(*w, *r) for w, r in zip(work, results, strict=True)]

  async def _once(self, key: tuple, ask: Callable):
    """The Reply, or a teaching's Taught, of `key`."""
    if key not in self._asked:
      self._asked[key] = asyncio.ensure_future(ask())
    return await self._asked[key]

  async def _one(self, prompts: Prompts, job: Job, problem: Problem):
    keys, config = self._keys(job, problem), self.config
    question = protocol.Question(
      problem.question, problem.id, config.seed, job.replicate
    )

    def sampled(temperature: float) -> protocol.Question:
      return replace(question, replicate=self._replicate(temperature, job))

    async def taught(approach: Reply) -> protocol.Taught:
      so_far = await self._once(
        keys["teacher_adaptive"],
        lambda: protocol.teach(
          self.teacher, prompts, config.teaching, question, approach
        ),
      )
      return await protocol.finish(self.student, prompts, question, so_far)

    async def probed() -> protocol.Taught:
      asked = sampled(config.probe.temperature)
      approach = await self._once(
        keys["student_diagnostic"],
        lambda: protocol.ask_probe(self.student, prompts, asked),
      )
      return await taught(approach)

    asked = sampled(config.solution.temperature)
    baseline = self._once(
      keys["student_baseline"],
      lambda: protocol.ask_baseline(self.student, prompts, asked),
    )
    if config.agent_mode:
      alone = await baseline
      return alone, await taught(alone)
    # Both are waited for: what is under way is paid for.
    both = await asyncio.gather(baseline, probed(), return_exceptions=True)
    for result in both:
      if isinstance(result, BaseException):
        raise result
    return both

  def _judged(self, made) -> list[Rollout]:
    lacks = [scoring.lack(baseline, taught) for *_, baseline, taught in made]
    episodes = [
      scoring.episode(problem, baseline, taught)
      for (_, problem, baseline, taught), lack in zip(made, lacks, strict=True)
      if not lack.down
    ]
    scored = iter(
      score_episodes(
        episodes,
        checker=self.checker,
        config=scoring.REWARD,
        max_teaching_tokens=self.config.teaching.max_tokens,
      )
    )
    out = []
    for (job, problem, *replies), lack in zip(made, lacks, strict=True):
      rest = {"why": lack.why, "down": lack.down}
      if not lack.down:
        rest |= self._scores(next(scored))
      where = (job.prompts, problem, job.split, job.replicate)
      out.append(Rollout(*where, *replies, **rest))
    return out

  def _scores(self, scored: ScoredEpisode) -> dict:
    objectives = scoring.objectives_of(scored)
    if objectives is None:
      return {"scored": scored, "why": "the verifier gave no verdict"}
    (leaked,) = scored.leaked
    score = scoring.score_of(objectives, leaked, self.config.objectives)
    return {"scored": scored, "objectives": objectives, "score": score}


def _warn_of_equals(made) -> None:
  """A line for each role that answers different questions with one text."""
  said = collections.defaultdict(dict)
  for _, problem, baseline, taught in made:
    for role, reply in (
      ("student_baseline", baseline),
      ("teacher_adaptive", taught.teaching_reply),
      ("student_with_teaching", taught.guided),
    ):
      if reply is not None and reply.ok:
        said[role][problem.question] = reply.text
  for role, texts in said.items():
    if len(texts) >= _ALIKE and len(set(texts.values())) == 1:
      text = next(iter(texts.values()))
      log.warning(
        "all answers of %s to %d questions are the same, %.80r: if that is a"
        " failure, the agent's failure_regex can say so",
        *(role, len(texts), text),
      )
