"""GRPO on how much the teaching improves the frozen student.

One step: sample episodes with the published weights, score them, update on
the packed teachings, publish the new weights.
"""

import json
import logging
import pathlib
import resource
import time
from collections.abc import Sequence

import numpy as np

from atlas_jax import metrics, multihost, sharding
from atlas_jax.checkpoint import Checkpoints
from atlas_jax.config import GrpoConfig
from atlas_jax.data import packing
from atlas_jax.data.problems import ProblemStream
from atlas_jax.phases.run import Run
from atlas_jax.teaching import rewards, transcripts
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.episode import BaselineCache, run_episodes
from atlas_jax.teaching.rewards import ScoredEpisode
from atlas_jax.training import step as step_lib
from atlas_jax.training.optimizer import make_optimizer

log = logging.getLogger(__name__)

SHOWN = (
  "reward_mean",
  "accuracy_alone",
  "accuracy_taught",
  "tokens_per_second",
)


class RolloutError(ValueError):
  """Sampled teachings cannot be trained on; the text says what to change."""


def rollouts(
  scored: Sequence[ScoredEpisode], cfg: GrpoConfig
) -> tuple[list[dict], dict[str, float]]:
  """What to train on, as JSON values (see `as_sequence`), and group numbers.

  Left out: groups whose rewards are all equal (they carry no gradient) and
  teachings without a verdict. A teaching that was cut at its length is kept
  with nothing trained when cfg.mask_truncated.

  Raises:
    RolloutError: a prompt with its teaching is longer than a row.
  """
  advantages, flat = rewards.group_advantages(
    [[r.total for r in s.rewards] for s in scored], cfg.advantage
  )
  kept = []
  for s, row, skip in zip(scored, advantages, flat, strict=True):
    prompt = s.episode.teacher_prompt_ids
    for teaching, reward, advantage in zip(
      s.episode.teachings, s.rewards, row, strict=True
    ):
      if skip or reward.total is None:
        continue
      completion = teaching.completion
      if len(prompt) + len(completion.token_ids) > cfg.row_length:
        raise RolloutError(
          f"a prompt of {len(prompt)} tokens and its teaching of"
          f" {len(completion.token_ids)} do not fit into"
          f" config.grpo.row_length={cfg.row_length}; raise it, or lower"
          " config.episode.max_teaching_tokens"
        )
      cut = completion.finish_reason == "length"
      kept.append(
        {
          "prompt": prompt,
          "completion": completion.token_ids,
          "logprobs": completion.logprobs,
          "trained": not (cut and cfg.mask_truncated),
          "advantage": float(advantage),
        }
      )
  return kept, {
    "zero_variance_groups": int(flat.sum()),
    "zero_variance_fraction": float(flat.mean()),
  }


def as_sequence(rollout: dict) -> packing.Sequence:
  """A rollout of `rollouts`, its completion trained, its prompt not."""
  start = len(rollout["prompt"])
  tokens = np.array([*rollout["prompt"], *rollout["completion"]], np.int32)
  mask = np.zeros(len(tokens), np.float32)
  mask[start:] = rollout["trained"]
  behavior = np.zeros(len(tokens), np.float32)
  behavior[start:] = rollout["logprobs"]
  return packing.Sequence(
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
  lengths = [len(t.completion.token_ids) for t in teachings]

  def mean(values):
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else float("nan")

  numbers = {
    "reward_mean": mean(r.total for r in known),
    "reward_std": float(np.std([r.total for r in known])) if known else 0.0,
    "accuracy_alone": mean(s.pass_rate for s in scored),
    "accuracy_taught": mean(s.guided_rate for s in scored),
    "unjudged": len(given) - len(known),
    "format_ok_fraction": mean(t.status == "ok" for t in teachings),
    "leak_fraction": mean(leak for s in scored for leak in s.leaked),
    "truncated_fraction": mean(
      t.completion.finish_reason == "length" for t in teachings
    ),
    "teacher_tokens_mean": mean(lengths),
    "teacher_tokens_max": max(lengths),
    "teaching_tokens_mean": mean(t.tokens for t in teachings),
    "response_tokens_alone": mean(
      b.tokens for s in scored for b in s.episode.baseline
    ),
    "response_tokens_taught": mean(t.guided.tokens for t in teachings),
  }
  for part in known[0].parts if known else ():
    numbers[f"reward_{part}"] = mean(r.parts[part] for r in known)
  return numbers


def row_bucket(
  sequences: Sequence[packing.Sequence], cfg: GrpoConfig, unit: int
) -> int:
  """Rows to pack into: few different numbers, so few compilations.

  unit * (1, 2, 3, 4, 6, 8, 12, 16, 24, ...), the first that holds them.
  """
  rows = packing.plan_rows(
    sequences, length=cfg.row_length, share_prompts=cfg.share_prompts
  )
  need = len(rows)
  power = 1
  while True:
    for size in (power, power * 3 // 2):
      if unit * size >= need:
        return unit * size
    power *= 2


class Trainer:
  """What a step changes, and its checkpoints."""

  def __init__(self, run: Run, name: str):
    self.run, self.cfg = run, run.config.grpo
    cfg = self.cfg
    tx, schedule = make_optimizer(cfg.optimizer, cfg.steps * cfg.epochs)
    self._checkpoints = Checkpoints(run.workdir / "checkpoints" / name)
    self.stream = ProblemStream(run.splits.train, seed=run.config.seed)
    self.done = self._checkpoints.latest() or 0
    self.reference = None
    if self.done:
      like = step_lib.as_trees(run.abstract_state(tx))
      if cfg.beta > 0:
        like["reference"] = like["model"]
      trees, extra = self._checkpoints.restore(like)
      self.state = step_lib.from_trees(trees)
      if cfg.beta > 0:
        self.reference = trees["reference"]
      self.stream.restore(extra["stream"])
      log.info("%s continues from step %d of %d", name, self.done, cfg.steps)
    else:
      self.state = step_lib.init_state(run.model, tx)
      if cfg.beta > 0:
        self.reference = step_lib.copy_model(run.model)
    temperature = run.config.episode.teacher_temperature
    self._train = step_lib.make_train_step(
      step_lib.grpo_objective(
        run.decoder_config,
        run.config.teacher,
        cfg,
        temperature=temperature,
        max_completion_tokens=run.config.episode.max_teaching_tokens,
      ),
      tx,
      schedule,
      skip_grad_norm=cfg.skip_grad_norm,
    )
    self._prepare = step_lib.make_prepare_step(
      run.decoder_config, run.config.teacher, cfg, temperature=temperature
    )
    self._score = step_lib.make_score_step(
      run.decoder_config, run.config.teacher, temperature=temperature
    )

  def update(self, sequences: Sequence[packing.Sequence]) -> dict[str, float]:
    """The updates of one step, cfg.epochs of them; numbers to log."""
    cfg = self.cfg
    unit = cfg.micro_batches * sharding.batch_shards(self.run.mesh)
    batch, stats = packing.pack(
      sequences,
      length=cfg.row_length,
      rows_multiple=row_bucket(sequences, cfg, unit),
      share_prompts=cfg.share_prompts,
    )
    batch = self.run.put(packing.split_micro(batch, cfg.micro_batches))
    if self.reference is not None:
      batch = batch._replace(ref_logprobs=self._score(self.reference, batch))
    batch = self._prepare(self.state.model, batch)
    results = []
    for _ in range(cfg.epochs):
      self.state, result = self._train(self.state, batch)
      results.append(result)
    means = metrics.Accumulator()
    for result in results:  # waits for it
      means.update(result)
    return {
      **means.result(),
      "packing_fill": stats.fill,
      "packing_shared_tokens": stats.shared_tokens,
      "packed_rows": stats.rows,
    }

  def finish_step(self, step: int) -> None:
    """After an update: the reference's turn, then a checkpoint if due."""
    cfg = self.cfg
    if (
      self.reference is not None
      and cfg.ref_ema_alpha > 0
      and step % cfg.ref_ema_every == 0
    ):
      self.reference = step_lib.ema_update(
        self.reference, self.state.model, cfg.ref_ema_alpha
      )
    if step % cfg.checkpoint_every == 0 or step == cfg.steps:
      trees = step_lib.as_trees(self.state)
      if self.reference is not None:
        trees["reference"] = self.reference
      self._checkpoints.save(step, trees, {"stream": self.stream.state()})

  def close(self) -> None:
    self._checkpoints.close()


class Transcripts:
  """episodes/PHASE.jsonl: every episode of every step, once."""

  def __init__(self, path: pathlib.Path, phase: str, resume_step: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics.drop_beyond(path, phase, resume_step)
    self._path, self._phase = path, phase

  def write(self, step: int, scored: Sequence[ScoredEpisode]) -> None:
    with self._path.open("a", encoding="utf-8") as f:
      for s in scored:
        line = {"phase": self._phase, **transcripts.episode_json(s, step)}
        f.write(json.dumps(line) + "\n")


def run(run: Run, name: str) -> None:
  """Trains `run.model` for config.grpo.steps; resumes from its checkpoint."""
  cfg, c = run.config.grpo, run.config
  if cfg.beta > 0 and cfg.ref_ema_alpha >= 0.5 and cfg.ref_ema_every <= 4:
    log.warning(
      "config.grpo.ref_ema_alpha=%g every %d steps moves the reference along"
      " with the policy: the KL penalty hardly holds anything",
      cfg.ref_ema_alpha,
      cfg.ref_ema_every,
    )
  version = run.version
  trainer = Trainer(run, name)
  baselines = BaselineCache()
  run.model, run.version = trainer.state.model, version + trainer.done
  if trainer.done == cfg.steps:
    trainer.close()
    return
  published = run.publish()
  episodes_file = None
  if multihost.is_lead():
    episodes_file = Transcripts(
      run.workdir / "episodes" / f"{name}.jsonl", name, trainer.done
    )
  with (
    AnswerChecker() as checker,
    run.reporting(name, start=trainer.done, total=cfg.steps) as report,
  ):
    for step in range(trainer.done + 1, cfg.steps + 1):
      begin = time.perf_counter()
      problems = trainer.stream.take(cfg.problems_per_step)

      async def ask(problems=problems, step=step):
        teacher, student = run.roles()
        return await run_episodes(
          problems,
          teacher=teacher,
          student=student,
          prompts=run.prompts,
          config=c.episode,
          group_size=cfg.group_size,
          seed=c.seed,
          step=step,
          baselines=baselines,
        )

      episodes = run.sample(ask)
      sampled = time.perf_counter()

      def score(episodes=episodes, step=step):
        scored = rewards.score_episodes(
          episodes,
          checker=checker,
          config=c.reward,
          max_teaching_tokens=c.episode.max_teaching_tokens,
        )
        kept, groups = rollouts(scored, cfg)
        episodes_file.write(step, scored)
        return kept, {**summary(scored), **groups}

      kept, numbers = multihost.call_on_lead(score)
      scored_at = time.perf_counter()
      if kept:
        numbers |= trainer.update([as_sequence(r) for r in kept])
      trained = time.perf_counter()
      run.model, run.version = trainer.state.model, version + step
      trainer.finish_step(step)
      published = run.publish()
      end = time.perf_counter()
      numbers |= {
        **published,
        "sample_seconds": sampled - begin,
        "score_seconds": scored_at - sampled,
        "train_seconds": trained - scored_at,
        "step_seconds": end - begin,
        "tokens_per_second": numbers["teacher_tokens_mean"]
        * len(problems)
        * cfg.group_size
        / (end - begin),
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / 1e6,
      }
      report(step, numbers, SHOWN)
  trainer.close()
