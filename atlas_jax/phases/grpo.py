"""GRPO on how much the teaching improves the frozen student.

The defaults of config.grpo are DAPO's loss (token mean, clip-higher, no KL)
with the ratio of policy to sampler truncated. One step reads straight down
this file:

  sample_batch   problems -> episodes -> scores
  _steps         -> packed rows -> train step -> published weights
                 -> now and then, validation problems

With config.grpo.max_staleness = n the batches of the next n steps are sampled
while a step trains (ahead.py): the batch of step k comes from the weights
after step k - 1 - n. After a server died, what it was sampling is sampled
again with the present weights.
"""

import contextlib
import functools
import json
import logging
import resource
import time
from collections.abc import Callable, Sequence

import numpy as np

from atlas_jax import metrics, multihost, stopping
from atlas_jax.checkpoint import CheckpointError
from atlas_jax.config import RunConfig
from atlas_jax.data.problems import Problem, ProblemStream
from atlas_jax.model import lora
from atlas_jax.phases.ahead import AheadQueue
from atlas_jax.phases.arms import validation
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.rollouts import (
  flat_groups,
  pack_rollouts,
  summary,
  trainable,
)
from atlas_jax.phases.servers import Servers
from atlas_jax.phases.teacher import Teacher
from atlas_jax.phases.trainer import make_grpo_step, rows_at_once
from atlas_jax.phases.training_phase import TrainingError, TrainingPhase
from atlas_jax.teaching import transcripts
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.episode import run_episodes
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.rewards import score_episodes
from atlas_jax.training.scoring import ema_update

log = logging.getLogger(__name__)


def sample_batch(
  position: dict,
  step: int,
  roles,
  *,
  config: RunConfig,
  prompts: Prompts,
  ask: Callable,
  checker: AnswerChecker,
  stream: ProblemStream[Problem],
  baselines: dict,
) -> dict:
  """What a step trains on and reports, as JSON values; on the lead process.

  Groups whose rewards are all equal teach nothing: the next problems are
  sampled in their place, config.grpo.refill_rounds times at most.

  `position` is where the step's problems begin in the stream, `roles` are
  (teacher, student), and `ask` sends what a coroutine requests.

  Raises:
    TrainingError: no teaching could be judged.
    TooLong: a teaching is longer than a row.
    ServerError, ServerDown: of the servers.
  """
  cfg = config.grpo
  sample_s = score_s = 0.0
  if stream.state() != position:  # it sorts all problems
    stream.restore(position)
  scored_P = []
  wanted = cfg.problems_per_step
  for refill in range(cfg.refill_rounds + 1):
    begin = time.perf_counter()
    problems = stream.take(wanted)
    episodes = ask(
      run_episodes(
        problems,
        teacher=roles[0],
        student=roles[1],
        prompts=prompts,
        config=config.episode,
        group_size=cfg.group_size,
        baseline_samples=cfg.baseline_samples,
        seed=config.seed,
        step=step,
        refill=refill,
        baselines=baselines,
      )
    )
    sampled = time.perf_counter()
    scored = score_episodes(
      episodes,
      checker=checker,
      config=config.reward,
      max_teaching_tokens=config.episode.max_teaching_tokens,
    )
    sample_s += sampled - begin
    score_s += time.perf_counter() - sampled
    scored_P += scored
    wanted = flat_groups(scored, cfg)
    if not wanted:
      break
  if all(t.reward.total is None for s in scored_P for t in s.teachings):
    raise TrainingError(
      f"step {step}: no teaching has a reward; the last failure of a function"
      f" of yours: {checker.failure}"
    )
  flat = flat_groups(scored_P, cfg)
  return {
    "rollouts": trainable(scored_P, cfg),
    "episodes": [transcripts.episode_json(s, step) for s in scored_P],
    "numbers": {
      **summary(scored_P),
      "zero_variance_groups": flat,
      "zero_variance_fraction": flat / len(scored_P),
      "refilled_groups": len(scored_P) - cfg.problems_per_step,
      "sample_seconds": sample_s,
      "score_seconds": score_s,
    },
    "stream": stream.state(),
  }


def train(entry: PhaseEntry, *, teacher: Teacher, **given) -> None:
  """Trains the teacher for config.grpo.steps; resumes from its checkpoint.

  With config.grpo.keep_best the teacher gets the weights back that were best.
  """
  best = _train(entry, teacher=teacher, **given)
  if best is not None and best["step"] != entry.config.grpo.steps:
    base, _ = lora.split(teacher.model)
    try:
      _, model = entry.trained(teacher, best["step"], base)
    except CheckpointError as error:
      log.warning("the last weights are kept, not the best: %s", error)
      return
    log.info("the weights after step %d, the best, are kept", best["step"])
    teacher.advance(model, 1)  # a version of their own


def _train(
  entry: PhaseEntry,
  *,
  teacher: Teacher,
  servers: Servers,
  prompts: Prompts,
  problems: Sequence[Problem],
  held_out: Sequence[Problem] = (),
) -> dict | None:
  """All steps that are left; TrainingPhase.best at their end."""
  config, cfg = entry.config, entry.config.grpo
  if len(problems) < cfg.problems_per_step:
    log.warning(
      "there are %d training problems, config.grpo.problems_per_step=%d: a step"
      " has the same problem more than once",
      len(problems),
      cfg.problems_per_step,
    )
  tx, train_step = make_grpo_step(config, teacher)
  with contextlib.ExitStack() as stack:
    dtype = cfg.reference_dtype if cfg.beta > 0 else None
    phase = TrainingPhase(entry, teacher, cfg.steps, tx, reference_dtype=dtype)
    stack.callback(phase.close)
    teacher.advance(phase.state.model, phase.done)
    if phase.done == cfg.steps:
      return phase.best
    servers.publish()
    checker = stack.enter_context(AnswerChecker(data=config.data))
    validate = validation(
      config,
      teacher,
      prompts,
      servers=servers,
      checker=checker,
      problems=held_out,
    )
    stream = ProblemStream(problems, seed=config.seed)
    sample = functools.partial(
      sample_batch,
      config=config,
      prompts=prompts,
      ask=servers.ask,
      checker=checker,
      stream=stream,
      baselines={},
    )
    batches = AheadQueue(sample, stream.state(), phase.saved)
    stack.callback(batches.close)
    report = stack.enter_context(phase.reporting())
    stack.enter_context(stopping.held())
    _steps(phase, train_step, teacher, servers, batches, validate, report)
    return phase.best


def _steps(
  phase, train_step, teacher, servers, batches, validate, report
) -> None:
  """The steps that are left."""
  entry = phase.entry
  cfg = entry.config.grpo
  at_once = rows_at_once(cfg, teacher.mesh)
  flat_steps = 0  # in a row, without a group that teaches

  def record(batch):
    lines = [{"phase": entry.name, **line} for line in batch["episodes"]]
    with entry.episodes.open("a", encoding="utf-8") as file:
      file.write("".join(json.dumps(line) + "\n" for line in lines))
    return batch["rollouts"], batch["numbers"]

  def state():
    return multihost.broadcast_json(json.loads(json.dumps(batches.state())))

  multihost.call_on_lead(
    lambda: metrics.drop_beyond(entry.episodes, entry.name, phase.done)
  )
  for step in range(phase.done + 1, cfg.steps + 1):
    begin = time.perf_counter()
    try:
      batch = servers.call(lambda n=step: batches.first(n, servers.roles()))
      sampled, numbers = multihost.call_on_lead(lambda b=batch: record(b))
    except stopping.Stopped:
      if step > 1:
        phase.save(step - 1, state)
      raise
    if multihost.is_lead():  # not before: a signal may have come until here
      batches.pop()
      last = min(step + cfg.max_staleness, cfg.steps)
      batches.begin(range(step + 1, last + 1), servers.roles())
    ages = [teacher.version - r["version"] for r in sampled]
    fresh = [
      r
      for r, age in zip(sampled, ages, strict=True)
      if age <= cfg.max_staleness
    ]
    flat_steps = 0 if fresh else flat_steps + 1
    if flat_steps and flat_steps % cfg.max_skipped_steps == 0:
      log.warning(
        "the last %d steps had only groups of equal rewards, which teach"
        " nothing; look at their episodes: the problems may be too hard or"
        " too easy",
        flat_steps,
      )
    waited = time.perf_counter()
    if any(r["trained"] for r in fresh):
      packed, packing_numbers = pack_rollouts(fresh, cfg, at_once)
      phase.state, results = train_step(phase.state, phase.reference, packed)
      phase.check_update(step, results, packed)
      numbers |= results | packing_numbers
    trained = time.perf_counter()
    batches.wait()
    teacher.advance(phase.state.model, 1)
    # A signal here is heard in is_due; the next start publishes. A step is not
    # saved without its look at the validation problems.
    with contextlib.suppress(stopping.Stopped):
      validated = cfg.is_validated(step)
      numbers |= servers.publish(hold=validated)
      if validated:
        numbers |= validate()
    seconds = time.perf_counter() - begin
    numbers |= {
      "wait_seconds": waited - begin,
      "train_seconds": trained - waited,
      "step_seconds": seconds,
      "tokens_per_second": numbers["teacher_tokens_sum"] / seconds,
      "staleness_mean": float(np.mean(ages)) if ages else 0.0,
      "stale_dropped": len(sampled) - len(fresh),
      "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
      / 1e6,
    }
    accuracy = numbers.get("validation_accuracy_taught")
    if cfg.keep_best and accuracy is not None:
      phase.keep_best(step, accuracy)
    # First the log: a step in a checkpoint is always in metrics.jsonl.
    report(step, numbers)
    finish_step(phase, step, state)


def finish_step(phase: TrainingPhase, step: int, state: Callable) -> None:
  """The reference follows the policy if it is time; a checkpoint if due.

  Raises:
    Stopped: a signal came to any process; the step is saved.
  """
  cfg = phase.entry.config.grpo
  follows = cfg.ref_ema_alpha > 0 and step % cfg.ref_ema_every == 0
  if phase.reference is not None and follows:
    phase.reference = ema_update(
      phase.reference, phase.state.trained, cfg.ref_ema_alpha
    )
  if phase.is_due(step):
    phase.save(step, state)
