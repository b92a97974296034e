"""Candidates against problems: who is asked what, once, and what it scored.

A rollout is one problem under one set of prompts: unaided solution, probe (or
an agent's unaided answer), teaching, guided solution. All rollouts of a call
are in flight together; the endpoints bound how many are asked at one time.

What does not depend on the candidate is asked once in a run: the unaided
solution by (problem, replicate), the probe by (template, problem, replicate).
A rollout that was scored is never made again.

A reply that is no answer is never scored. A problem with one is tried a
second time; then it is left out: its score is None. When more than half of a
call's rollouts have none because models failed, the run stops.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from atlas_jax.config import PromptsConfig, RewardConfig
from atlas_jax.data.problems import Problem
from atlas_jax.online import protocol
from atlas_jax.online.config import ObjectivesConfig, OnlineConfig
from atlas_jax.online.replies import Agent, BudgetSpent, ChatModel, Reply
from atlas_jax.serving.client import Completion
from atlas_jax.serving.events import EventLoop
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.episode import Teaching, TeachingEpisode
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.requests import Solution
from atlas_jax.teaching.rewards import ScoredEpisode, score_episodes

# Efficiency in full: the objectives weigh it.
REWARD = RewardConfig(efficiency_weight=1.0)
_TRIES = 2


class RolloutError(RuntimeError):
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

  scored, objectives and score are None where there was no answer or no
  verdict; `why` says which, and `down` whether a model failed (and not, say,
  an outline was empty).
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


def tokens_of(reply: Reply) -> int:
  """Tokens of a reply; about one in four bytes where nobody counted."""
  if reply.completion_tokens is not None:
    return reply.completion_tokens
  return max(1, len((reply.text or "").encode()) // 4)


def finish_reason(reply: Reply) -> str:
  return "length" if reply.status == "truncated" else "stop"


def _solution(reply: Reply) -> Solution:
  return Solution(reply.text, tokens_of(reply), finish_reason(reply))


def _episode(problem, baseline: Reply, taught: protocol.Taught):
  """The same as a training episode, as far as texts go."""
  reply = taught.teaching_reply
  completion = Completion(reply.text, (), (), finish_reason(reply), "")
  share = len(taught.teaching or "") / max(1, len(reply.text))
  replies = {
    "baseline": baseline,
    "probe": taught.approach_reply,
    "teach": reply,
    "guided": taught.guided,
  }
  return TeachingEpisode(
    problem=problem,
    baseline=(_solution(baseline),),
    approach=taught.approach,
    teacher_prompt_ids=(),
    teachings=(
      Teaching(
        completion,
        taught.teaching,
        taught.teaching_status,
        # The teaching's part of what the teacher wrote.
        math.ceil(share * tokens_of(reply)),
        _solution(taught.guided),
      ),
    ),
    seconds={stage: r.seconds for stage, r in replies.items()},
  )


def objectives_of(scored: ScoredEpisode) -> dict[str, float] | None:
  """What the search may look at, each in [0, 1]; None without a verdict.

  accuracy         the guided solution is right
  non_degradation  it is not worse than the unaided one
  efficiency       the share of the unaided response's tokens that a right
                   guided one saved
  completion       it states an answer
  """
  (verdict,), (reward,) = scored.guided, scored.rewards
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


def _failure(baseline: Reply, taught: protocol.Taught) -> dict:
  """why and down of a rollout without an answer; empty: it has all."""
  if not protocol.has_text(baseline):
    stage, status, last = "baseline", baseline.status, baseline
  elif taught.guided is None or not protocol.has_text(taught.guided):
    last = taught.guided or taught.teaching_reply or taught.approach_reply
    stage, status = taught.stage, taught.status
  else:
    return {}
  text = f"{stage}: {status} {last.error or ''}".strip()
  return {"why": text, "down": status in ("error", "timeout")}


@dataclass
class Rollouts:
  """Makes rollouts, and remembers them for the rest of the run.

  Args:
    student, teacher: who is asked, by coroutines of `loop`.
    config: of the run.
    loop: where they live.
    checker: judges.
    on_scored: gets every new rollout that was scored, in the order of the
      jobs.
  """

  student: Agent
  teacher: ChatModel
  config: OnlineConfig
  loop: EventLoop
  checker: AnswerChecker
  on_scored: Callable[[Rollout], None]

  def __post_init__(self):
    self._done: dict[tuple, Rollout] = {}
    self._asked: dict[tuple, asyncio.Future] = {}

  def evaluate(self, jobs: Sequence[Job]) -> list[list[Rollout]]:
    """The rollouts of each job, in the order of its problems.

    Raises:
      BudgetSpent: the ledger has no room. What was under way was waited for
        and is in the record.
      RolloutError: more than half have no answer because a model failed.
    """
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
    return [
      [found[job.prompts, p.id, job.replicate] for p in job.problems]
      for job in jobs
    ]

  def known(self, job: Job) -> list[Rollout]:
    """The rollouts of a job that were scored, without asking anybody."""
    keys = [(job.prompts, p.id, job.replicate) for p in job.problems]
    return [self._done[k] for k in keys if k in self._done]

  def calls_needed(self, jobs: Sequence[Job]) -> list[tuple[str, int]]:
    """(role, characters of its prompt that are known now) of each call that
    `jobs` would make, if every call is answered."""
    out, counted = [], set()
    for job in jobs:
      for problem in job.problems:
        key = (job.prompts, problem.id, job.replicate)
        if key in self._done or key in counted:
          continue
        counted.add(key)
        roles = ["teacher_adaptive", "student_with_teaching"]
        first = {"student_baseline": self._baseline_key(problem, job)}
        if not self.config.agent_mode:
          first["student_diagnostic"] = self._probe_key(problem, job)
        for role, asked in first.items():
          if asked not in self._asked and asked not in counted:
            counted.add(asked)
            roles.append(role)
        for role in roles:
          template = getattr(job.prompts, role)
          out.append((role, len(template) + len(problem.question)))
    return out

  def _baseline_key(self, problem: Problem, job: Job) -> tuple:
    return ("baseline", problem.id, job.replicate)

  def _probe_key(self, problem: Problem, job: Job) -> tuple:
    return (
      "probe",
      job.prompts.student_diagnostic,
      problem.id,
      job.replicate,
    )

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
      if failed or not protocol.has_text(future.result()):
        del self._asked[key]
    errors = [r for r in results if isinstance(r, BaseException)]
    for error in sorted(errors, key=lambda e: isinstance(e, BudgetSpent)):
      raise error
    return [(*w, *r) for w, r in zip(work, results, strict=True)]

  async def _once(self, key: tuple, ask: Callable) -> Reply:
    if key not in self._asked:
      self._asked[key] = asyncio.ensure_future(ask())
    return await self._asked[key]

  async def _one(self, prompts: Prompts, job: Job, problem: Problem):
    question = protocol.Question(
      problem.question, problem.id, self.config.seed, job.replicate
    )
    baseline = self._once(
      self._baseline_key(problem, job),
      lambda: protocol.ask_baseline(self.student, prompts, question),
    )
    if self.config.agent_mode:
      alone = await baseline
      return alone, await self._taught(prompts, question, alone)

    async def probed():
      approach = await self._once(
        self._probe_key(problem, job),
        lambda: protocol.ask_probe(self.student, prompts, question),
      )
      return await self._taught(prompts, question, approach)

    # Both are waited for: what is under way is paid for.
    both = await asyncio.gather(baseline, probed(), return_exceptions=True)
    for result in both:
      if isinstance(result, BaseException):
        raise result
    return both

  async def _taught(self, prompts, question, approach: Reply):
    return await protocol.taught(
      self.student,
      self.teacher,
      prompts,
      self.config.teaching,
      question,
      approach_reply=approach,
    )

  def _judged(self, made) -> list[Rollout]:
    failures = [_failure(baseline, taught) for *_, baseline, taught in made]
    episodes = [
      _episode(problem, baseline, taught)
      for (_, problem, baseline, taught), f in zip(made, failures, strict=True)
      if not f
    ]
    scored = iter(
      score_episodes(
        episodes,
        checker=self.checker,
        config=REWARD,
        max_teaching_tokens=self.config.teaching.max_tokens,
      )
    )
    out = []
    for (job, problem, *replies), f in zip(made, failures, strict=True):
      rest = f or self._scores(next(scored))
      where = (job.prompts, problem, job.split, job.replicate)
      out.append(Rollout(*where, *replies, **rest))
    return out

  def _scores(self, scored: ScoredEpisode) -> dict:
    objectives = objectives_of(scored)
    if objectives is None:
      return {"scored": scored, "why": "the verifier gave no verdict"}
    (leaked,) = scored.leaked
    score = score_of(objectives, leaked, self.config.objectives)
    return {"scored": scored, "objectives": objectives, "score": score}
