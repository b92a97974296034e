"""What the values of a config must be: tables, and rules between keys.

Types and unknown keys are `config.resolve`'s; this reads a built RunConfig.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from atlas_jax import addresses

if TYPE_CHECKING:
  from atlas_jax.config import (
    DataConfig,
    GrpoConfig,
    OptimizerConfig,
    RunConfig,
  )

# config path -> its valid values
CHOICES = {
  "teacher.param_dtype": ("float32", "bfloat16"),
  "teacher.compute_dtype": ("float32", "bfloat16"),
  "teacher.remat": ("none", "dots", "full"),
  "sft.optimizer.schedule": ("constant", "cosine", "linear"),
  "grpo.optimizer.schedule": ("constant", "cosine", "linear"),
  "grpo.loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"),
  "grpo.ratio_level": ("token", "sequence"),
  "grpo.advantage": ("group", "batch", "none"),
  "grpo.mismatch": (
    "none",
    "token_truncate",
    "token_mask",
    "sequence_truncate",
    "sequence_mask",
  ),
  "serving.teacher.dtype": ("float32", "bfloat16"),
  "serving.student.dtype": ("float32", "bfloat16"),
  "evaluate.split": ("train", "validation", "test"),
  "export.dtype": ("float32", "bfloat16"),
}
POSITIVE = [
  "keep_checkpoints",
  "sft.optimizer.clip_norm",
  "grpo.optimizer.clip_norm",
  "sft.steps",
  "sft.epochs",
  "sft.max_skipped_steps",
  "sft.batch_rows",
  "sft.row_length",
  "sft.micro_batches",
  "sft.checkpoint_every",
  "grpo.steps",
  "grpo.problems_per_step",
  "grpo.group_size",
  "grpo.row_length",
  "grpo.micro_batches",
  "grpo.epochs",
  "grpo.skip_grad_norm",
  "grpo.max_skipped_steps",
  "grpo.checkpoint_every",
  "grpo.ref_ema_every",
  "episode.max_probe_tokens",
  "episode.max_teaching_tokens",
  "episode.max_solution_tokens",
  "episode.baseline_samples",
  "evaluate.problems",
  "evaluate.samples",
  "evaluate.bootstrap_resamples",
  "serving.max_concurrency",
  "serving.full_every",
  "teacher.logprob_chunk",
]
# What metrics call reward_NAME already.
REWARD_NAMES = (
  *("improvement", "degradation", "efficiency", "format", "leak", "length"),
  *("mean", "std"),
)
NOT_NEGATIVE = [
  "grpo.refill_rounds",
  "grpo.max_staleness",
  "grpo.beta",
  "grpo.eps_low",
  "grpo.eps_high",
  "grpo.mismatch_min",
  "grpo.mismatch_max",
  "grpo.ref_ema_alpha",
  "reward.efficiency_weight",
  "reward.degradation_penalty",
  "reward.format_penalty",
  "reward.leak_penalty",
  "reward.length_cost",
  "sft.optimizer.learning_rate",
  "grpo.optimizer.learning_rate",
  "sft.optimizer.warmup_steps",
  "grpo.optimizer.warmup_steps",
  "serving.retries",
  "serving.restarts",
  "serving.max_logprob_gap",
]
# Flags of vLLM that run code, open a door or serve another model.
_REFUSED_FLAGS = """
  additional-config allow-credentials allowed-headers allowed-local-media-path
  allowed-media-domains allowed-methods allowed-origins api-key code-revision
  config ec-manager-config ec-transfer-config generation-config grpc
  hf-config-path hf-overrides hf-token host io-processor-plugin kv-events-config
  kv-transfer-config log-config-file logging-config logits-processors
  lora-modules middleware model model-class-overrides otlp-traces-endpoint
  override-generation-config port reasoning-parser-plugin revision scheduler-cls
  served-model-name tokenizer tokenizer-revision tool-parser-plugin tool-server
  trust-remote-code trust-request-chat-template trust-request-mm-kwargs uds
  weight-transfer-config worker-cls worker-extension-cls
"""


def value(config, path: str):
  """What stands at a dotted path of a config."""
  for part in path.split("."):
    config = getattr(config, part)
  return config


def wrong_choices(config, choices: Mapping[str, tuple]) -> Iterator[str]:
  """One line for each path whose value is not among its choices."""
  for path, valid in choices.items():
    if value(config, path) not in valid:
      yield (
        f"config.{path}={value(config, path)!r} is not one of"
        f" {', '.join(valid)}"
      )


def negatives(config, paths: Iterable[str]) -> Iterator[str]:
  """One line for each path whose number is below 0."""
  for path in paths:
    if value(config, path) < 0:
      yield f"config.{path}={value(config, path)} must not be negative"


def wrong_urls(config, paths: Iterable[str]) -> Iterator[str]:
  """One line for each path whose server's address is not valid."""
  for path in paths:
    url = value(config, path)
    if url is not None and (problem := addresses.problem(url)):
      yield f"config.{path} {problem}; the servers' key is ATLAS_SERVER_KEY"


def refused_flags(config, paths: Iterable[str]) -> Iterator[str]:
  """One line for each flag at the paths that a config does not decide."""
  for path in paths:
    for argument in value(config, path):
      # As vLLM reads it: underscores, a beginning, .KEY and =VALUE behind it.
      name = re.match(r"--([^=.]*)|", argument.replace("_", "-"))[1]
      refused = _REFUSED_FLAGS.split()
      if name is not None and any(flag.startswith(name) for flag in refused):
        yield (
          f"config.{path} holds --{name}, which runs code, opens a door or"
          f" serves something else; take it out (any of {', '.join(refused)})"
        )


def problems(config: "RunConfig") -> Iterator[str]:
  """One line for each value that is not valid: the key and what is."""

  yield from wrong_urls(config, ("serving.teacher.url", "serving.student.url"))
  yield from wrong_choices(config, CHOICES)
  for path in POSITIVE:
    number = value(config, path)
    if number is not None and number <= 0:
      yield f"config.{path}={number} must be above 0"
  yield from negatives(config, NOT_NEGATIVE)
  yield from refused_flags(
    config, ("serving.teacher.extra_args", "serving.student.extra_args")
  )
  yield from own_code(config.data)
  yield from _reward_terms(config.reward.extra)
  sft, grpo = config.sft, config.grpo
  if (sft.steps is None) == (sft.epochs is None):
    yield (
      f"config.sft.steps={sft.steps} and config.sft.epochs={sft.epochs}: give"
      " one of the two, the other None (as a flag: --config.sft.steps=None)"
    )
  if sft.steps is not None:
    yield from warmup("sft", sft.optimizer, sft.steps)
  yield from warmup("grpo", grpo.optimizer, grpo.steps * grpo.epochs)
  yield from _loss_problems(config.grpo)
  yield from _sampling_problems(config)
  if config.export.path is not None and "://" in config.export.path:
    yield f"config.export.path={config.export.path} must be a local directory"


def own_code(data: "DataConfig") -> Iterator[str]:
  """One line for each value of the user's own functions that is not valid."""
  if data.verifier is not None and ":" not in data.verifier:
    yield (
      f"config.data.verifier={data.verifier!r} must be 'module:function' or"
      " 'file.py:function'"
    )
  for key in ("own_deadline_s", "own_processes"):
    if getattr(data, key) <= 0:
      yield f"config.data.{key}={getattr(data, key)} must be above 0"


def _reward_terms(extra: Mapping) -> Iterator[str]:
  valid = '{"function": "file.py:function", "weight": 0.1}'
  for name, term in extra.items():
    if not name.isidentifier() or name in REWARD_NAMES:
      yield (
        f"config.reward.extra: {name!r} cannot name a term; valid: letters,"
        f" digits and _, and none of {', '.join(REWARD_NAMES)}"
      )
    elif not (
      isinstance(term, Mapping)
      and set(term) == {"function", "weight"}
      and isinstance(term["function"], str)
      and ":" in term["function"]
      and type(term["weight"]) in (int, float)
      and math.isfinite(term["weight"])
    ):
      yield f"config.reward.extra.{name}={term!r} must be as {valid}"


def warmup(name: str, o: "OptimizerConfig", updates: int) -> Iterator[str]:
  """One line when the warm-up of a phase takes all its updates."""
  if o.schedule != "constant" and o.warmup_steps >= updates:
    yield (
      f"config.{name}.optimizer.warmup_steps={o.warmup_steps} leaves no"
      f" update of the {updates} of config.{name} to its {o.schedule} schedule"
    )


def _loss_problems(grpo: "GrpoConfig") -> Iterator[str]:
  """What would train on the wrong thing, or silently do nothing."""
  if grpo.loss_type == "cispo" and grpo.eps_high < 1:
    yield (
      f"config.grpo.eps_high={grpo.eps_high}: with loss_type=cispo eps_high is"
      " itself the cap of the ratio, so it must be at least 1 (typically 5)"
    )
  if grpo.delta is not None:
    if grpo.loss_type in ("cispo", "sapo"):
      yield (
        f"config.grpo.delta={grpo.delta} has no effect with"
        f" loss_type={grpo.loss_type}; leave it None"
      )
    if grpo.delta <= 1:
      yield (
        f"config.grpo.delta={grpo.delta} must be above 1 (the ratio of an"
        " unchanged policy), or None"
      )
  if grpo.max_staleness > 0 and grpo.mismatch == "none":
    yield (
      f"config.grpo.max_staleness={grpo.max_staleness} trains on what older"
      " weights sampled: choose a config.grpo.mismatch other than none"
    )
  if grpo.kl_importance_weighted and grpo.beta == 0:
    yield (
      "config.grpo.kl_importance_weighted=True has no effect with"
      " config.grpo.beta=0"
    )
  if not grpo.mismatch_min <= 1 <= grpo.mismatch_max:
    yield (
      f"config.grpo.mismatch_min={grpo.mismatch_min} and"
      f" mismatch_max={grpo.mismatch_max} must enclose 1, the weight where"
      " sampler and trainer agree"
    )
  share = grpo.entropy_quantile
  if share is not None and not 0 < share <= 1:
    yield (
      f"config.grpo.entropy_quantile={share} must be in (0, 1], the share of"
      " tokens that train, or None for all"
    )


def _sampling_problems(config: "RunConfig") -> Iterator[str]:
  """What would sample the same thing many times, or nothing to learn from."""
  grpo, evaluate = config.grpo, config.evaluate
  if grpo.group_size < 2:
    yield (
      f"config.grpo.group_size={grpo.group_size} must be at least 2: a teaching"
      " is worth what it does better than the others of its problem"
    )
  if "grpo" in config.phases and config.episode.teacher_temperature == 0:
    yield (
      "config.episode.teacher_temperature=0 makes the teachings of a problem"
      " equal; it must be above 0 for grpo"
    )
  hottest = max(evaluate.teacher_temperature, evaluate.student_temperature)
  if evaluate.samples > 1 and hottest == 0:
    yield (
      f"config.evaluate.samples={evaluate.samples} at temperature 0 are equal;"
      " raise config.evaluate.student_temperature, or ask for 1"
    )
  if grpo.ref_ema_alpha > 1:
    yield f"config.grpo.ref_ema_alpha={grpo.ref_ema_alpha} must not be above 1"
  if grpo.ref_ema_alpha > 0 and grpo.beta == 0:
    yield (
      f"config.grpo.ref_ema_alpha={grpo.ref_ema_alpha} has no effect with"
      " config.grpo.beta=0: there is no reference"
    )
