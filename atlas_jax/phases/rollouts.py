"""The batches of a GRPO phase: sampled, scored, filled up, maybe ahead of time.

A batch is made on the lead process, of JSON values alone, so that it can be
sent to the other processes and wait in a checkpoint. With
config.grpo.max_staleness = n the batches of the next n steps are sampled while
a step trains: batch k comes from the weights after step k - 1 - n, whatever
the clock does, and a run that was killed goes on with the same batches. (After
a server died, what it was sampling is sampled again with the present weights.)
"""

import dataclasses
import itertools
import json
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from atlas_jax import metrics, multihost
from atlas_jax.config import GrpoConfig
from atlas_jax.data import packing
from atlas_jax.data.problems import Problem, ProblemStream
from atlas_jax.errors import AtlasError
from atlas_jax.phases.run import Run
from atlas_jax.teaching import rewards, transcripts
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.episode import run_episodes
from atlas_jax.teaching.rewards import ScoredEpisode

log = logging.getLogger(__name__)


class RolloutError(AtlasError):
  """Sampled teachings cannot be trained on; the text says what to change."""


def flat_groups(scored: Sequence[ScoredEpisode], cfg: GrpoConfig) -> int:
  """Groups whose rewards are all equal: they carry no gradient."""
  return int(_advantages(scored, cfg)[1].sum())


def _advantages(scored, cfg):
  return rewards.group_advantages(
    [[r.total for r in s.rewards] for s in scored], cfg.advantage
  )


def trainable(scored: Sequence[ScoredEpisode], cfg: GrpoConfig) -> list[dict]:
  """What to train on, as JSON values; see `as_sequence`.

  Left out: groups whose rewards are all equal and teachings without a verdict.
  A teaching that was cut at its length is kept with nothing trained when
  cfg.mask_truncated.

  Raises:
    RolloutError: a prompt with its teaching is longer than a row.
  """
  kept = []
  for s, row, skip in zip(scored, *_advantages(scored, cfg), strict=True):
    for teaching, reward, advantage in zip(
      s.episode.teachings, s.rewards, row, strict=True
    ):
      if skip or reward.total is None:
        continue
      sample, prompt = teaching.said.sample, teaching.said.prompt_ids
      if len(prompt) + len(sample.token_ids) > cfg.row_length:
        raise RolloutError(
          f"a prompt of {len(prompt)} tokens and its teaching of"
          f" {len(sample.token_ids)} do not fit into"
          f" config.grpo.row_length={cfg.row_length}; raise it, or lower"
          " config.episode.max_teaching_tokens. The question begins"
          f" {s.episode.problem.question[:80]!r}"
        )
      cut = teaching.said.finish_reason == "length"
      kept.append(
        {
          "prompt": prompt,
          "completion": sample.token_ids,
          "logprobs": sample.logprobs,
          "version": sample.weight_version,
          "trained": not (cut and cfg.mask_truncated),
          "advantage": float(advantage),
        }
      )
  return kept


def as_sequence(rollout: dict) -> packing.TokenSequence:
  """A rollout of `trainable`, its completion trained, its prompt not."""
  start = len(rollout["prompt"])
  tokens = np.array([*rollout["prompt"], *rollout["completion"]], np.int32)
  mask = np.zeros(len(tokens), np.float32)
  mask[start:] = rollout["trained"]
  behavior = np.zeros(len(tokens), np.float32)
  behavior[start:] = rollout["logprobs"]
  return packing.TokenSequence(
    tokens,
    mask,
    behavior,
    advantage=rollout["advantage"],
    prompt_length=start,
  )


def summary(scored: Sequence[ScoredEpisode]) -> dict[str, float]:
  """Numbers of a step's episodes; a mean of nothing is NaN."""
  teachings = [t for s in scored for t in s.episode.teachings]
  given = [r for s in scored for r in s.rewards]
  known = [r for r in given if r.total is not None]
  lengths = [t.said.tokens for t in teachings]

  def mean(values):
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else float("nan")

  numbers = {
    "reward_mean": mean(r.total for r in known),
    "reward_std": float(np.std([r.total for r in known])) if known else 0.0,
    "accuracy_alone": mean(s.pass_rate for s in scored),
    "accuracy_taught": mean(s.taught_rate for s in scored),
    "unjudged": len(given) - len(known),
    "format_ok_fraction": mean(t.status == "ok" for t in teachings),
    "leak_fraction": mean(leak for s in scored for leak in s.leaked),
    "truncated_fraction": mean(
      t.said.finish_reason == "length" for t in teachings
    ),
    "teacher_tokens_sum": sum(lengths),
    "teacher_tokens_mean": mean(lengths),
    "teacher_tokens_max": max(lengths),
    "teaching_tokens_mean": mean(t.tokens for t in teachings),
    "response_tokens_alone": mean(
      b.tokens for s in scored for b in s.episode.baseline
    ),
    "response_tokens_taught": mean(t.taught.tokens for t in teachings),
  }
  for part in known[0].parts if known else ():
    numbers[f"reward_{part}"] = mean(r.parts[part] for r in known)
  return numbers


@dataclass(frozen=True)
class Batch:
  """What one step trains on, and what is told about it. JSON values.

  stream is where the problems go on after it.
  """

  step: int
  rollouts: list[dict]
  episodes: list[dict]
  numbers: dict[str, float]
  stream: dict[str, int]


class Rollouts:
  """The batches of a phase, in the order of its steps. A context manager.

  Args:
    run: its servers and prompts.
    problems: to train on.
    name: of the phase; the episodes go to episodes/<name>.jsonl.
    checker: judges the answers.
    done: steps that are done.
    saved: `state()` of the checkpoint after step `done`; None at the start.
  """

  def __init__(
    self,
    run: Run,
    problems: Sequence[Problem],
    name: str,
    checker: AnswerChecker,
    done: int,
    saved,
  ):
    self._run, self._checker = run, checker
    self._cfg = run.config.grpo
    self._baselines = {}  # of unaided solutions
    self._name = name
    self._episodes = run.workdir / "episodes" / f"{name}.jsonl"
    self._stream = ProblemStream(problems, seed=run.config.seed)
    # Steps after `done`, in order: batches of the checkpoint, then futures.
    self._ahead: deque[Batch | Future] = deque()
    if saved is not None:
      self._stream.restore(saved["stream"])
      self._ahead += [Batch(**b) for b in saved["ahead"]]
    self._position = self._stream.state()  # after the last finished batch
    self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
    multihost.call_on_lead(
      lambda: metrics.drop_beyond(self._episodes, name, done)
    )

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self._pool.shutdown(wait=False, cancel_futures=True)

  def next(self, step: int) -> tuple[list[dict], dict[str, float]]:
    """(rollouts to train on, numbers to log) of a step. A collective.

    Rollouts of weights that are older than max_staleness updates are left
    out and counted.
    """
    begin = time.perf_counter()
    batch = self._run.with_servers(lambda: self._take(step))

    def tell():
      lines = "".join(json.dumps(line) + "\n" for line in batch.episodes)
      with self._episodes.open("a", encoding="utf-8") as f:
        f.write(lines)
      return batch.rollouts, batch.numbers

    rollouts, numbers = multihost.call_on_lead(tell)
    if multihost.is_lead():  # not before: a signal may have come until here
      self._ahead.popleft()
      self._position = batch.stream
    ages = [self._run.version - r["version"] for r in rollouts]
    fresh = [
      r
      for r, age in zip(rollouts, ages, strict=True)
      if age <= self._cfg.max_staleness
    ]
    return fresh, {
      **numbers,
      "wait_seconds": time.perf_counter() - begin,
      "staleness_mean": float(np.mean(ages)) if ages else 0.0,
      "stale_dropped": len(rollouts) - len(fresh),
    }

  def sample_ahead(self, first: int) -> None:
    """Starts the batches from step `first` on that may be sampled now."""
    if not multihost.is_lead():
      return
    last = min(first + self._cfg.max_staleness - 1, self._cfg.steps)
    for step in range(first + len(self._ahead), last + 1):
      roles = self._run.servers.roles()
      self._ahead.append(self._pool.submit(self._sample, step, roles))

  def state(self) -> dict:
    """For a checkpoint, once what was started is done. A collective."""

    def ready():
      futures = [b for b in self._ahead if isinstance(b, Future)]
      wait(futures)
      # What failed, and all behind it, is sampled again by the next `next`.
      good = itertools.takewhile(
        lambda b: isinstance(b, Batch) or b.exception() is None, self._ahead
      )
      batches = [b if isinstance(b, Batch) else b.result() for b in good]
      stream = batches[-1].stream if batches else self._position
      return {
        "stream": stream,
        "ahead": [dataclasses.asdict(b) for b in batches],
      }

    return multihost.broadcast_json(
      json.loads(json.dumps(ready())) if multihost.is_lead() else None
    )

  def wait(self) -> None:
    """Returns when nothing is being sampled: new weights may be published."""
    wait([b for b in self._ahead if isinstance(b, Future)])

  def _take(self, step: int) -> Batch:
    """The batch of the next step; it stays the first of `_ahead`."""
    try:
      if not self._ahead:
        self._ahead.append(self._sample(step, self._run.servers.roles()))
      batch = self._ahead[0]
      return batch.result() if isinstance(batch, Future) else batch
    except Exception:  # a signal leaves them to the checkpoint
      # The batches behind it took problems too: all are made again.
      self.wait()
      self._ahead.clear()
      self._stream.restore(self._position)
      raise

  def _sample(self, step: int, roles) -> Batch:
    """Episodes, rewards, and more problems in place of flat groups."""
    run, cfg, c = self._run, self._cfg, self._run.config
    scored: list[ScoredEpisode] = []
    sampling = scoring = 0.0
    wanted, dropped, refilled = cfg.problems_per_step, 0, 0
    for refill in range(cfg.refill_rounds + 1):
      begin = time.perf_counter()
      episodes = run.servers.ask(
        run_episodes(
          self._stream.take(wanted),
          teacher=roles[0],
          student=roles[1],
          prompts=run.prompts,
          config=c.episode,
          group_size=cfg.group_size,
          baseline_samples=cfg.baseline_samples,
          seed=c.seed,
          step=step,
          refill=refill,
          baselines=self._baselines,
        )
      )
      sampled = time.perf_counter()
      new = rewards.score_episodes(
        episodes,
        checker=self._checker,
        config=c.reward,
        max_teaching_tokens=c.episode.max_teaching_tokens,
      )
      sampling += sampled - begin
      scoring += time.perf_counter() - sampled
      scored += new
      refilled += len(new) if refill else 0
      wanted = flat_groups(new, cfg)
      dropped += wanted
      if not wanted:
        break
    if all(r.total is None for s in scored for r in s.rewards):
      raise RolloutError(
        f"step {step}: no teaching has a reward; the last failure of a"
        f" function of yours: {self._checker.failure}"
      )
    numbers = {
      **summary(scored),
      "zero_variance_groups": dropped,
      "zero_variance_fraction": dropped / len(scored),
      "refilled_groups": refilled,
      "sample_seconds": sampling,
      "score_seconds": scoring,
    }
    lines = [
      {"phase": self._name, **transcripts.episode_json(s, step)} for s in scored
    ]
    return Batch(
      step, trainable(scored, cfg), lines, numbers, self._stream.state()
    )
