"""What the values of a config must be beside their types and bounds.

This reads a built RunConfig.
"""

import datetime
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from atlas_jax import addresses

if TYPE_CHECKING:
  from atlas_jax.config import (
    DataConfig,
    GrpoConfig,
    OptimizerConfig,
    RunConfig,
    ServerConfig,
    TeachConfig,
  )

# What metrics call reward_NAME already.
REWARD_NAMES = (
  *("improvement", "degradation", "efficiency", "format", "leak", "length"),
  *("mean", "std"),
)
# What decides how a template is rendered, not what it writes.
_NOT_OF_TEMPLATES = (
  *("conversation", "conversations", "messages", "tools", "documents"),
  *("chat_template", "add_generation_prompt", "continue_final_message"),
  *("tokenize", "padding", "truncation", "max_length", "return_tensors"),
  *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
  "strftime_now",
)
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


def server(config: "ServerConfig", where: str) -> Iterator[str]:
  """One line for an address or a flag of a server that is not valid."""
  if config.url is not None and (problem := addresses.problem(config.url)):
    yield f"{where}.url {problem}; the servers' key is ATLAS_SERVER_KEY"
  refused = _REFUSED_FLAGS.split()
  for argument in config.extra_args:
    # As vLLM reads it: underscores, a beginning, .KEY and =VALUE behind it.
    name = re.match(r"--([^=.]*)|", argument.replace("_", "-"))[1]
    if name is not None and any(flag.startswith(name) for flag in refused):
      yield (
        f"{where}.extra_args holds --{name}, which runs code, opens a door or"
        f" serves something else; take it out (any of {', '.join(refused)})"
      )


def problems(config: "RunConfig") -> Iterator[str]:
  """One line for each value that is not valid: the key and what is."""
  if not config.phases:
    yield "config.phases names no phase"
  for role in ("teacher", "student"):
    where = f"config.serving.{role}"
    yield from server(getattr(config.serving, role), where)
  yield from verifier(config.data)
  yield from template_kwargs(config.episode, "config.episode")
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
  try:
    datetime.date.fromisoformat(config.template_date or "2000-01-01")
  except ValueError as error:
    yield f"config.template_date={config.template_date!r} is no day: {error}"
  yield from _loss_problems(config.grpo)
  yield from _sampling_problems(config)
  if config.export.path is not None and "://" in config.export.path:
    yield f"config.export.path={config.export.path} must be a local directory"


def verifier(data: "DataConfig") -> Iterator[str]:
  """One line for a verifier that names no function."""
  if data.verifier is not None and ":" not in data.verifier:
    yield (
      f"config.data.verifier={data.verifier!r} must be 'module:function' or"
      " 'file.py:function'"
    )


def template_kwargs(config: "TeachConfig", where: str) -> Iterator[str]:
  """One line for an argument of a chat template that is none."""
  for part in ("probe", "student", "teacher"):
    for name in getattr(config.chat_template_kwargs, part):
      if not name.isidentifier() or name in _NOT_OF_TEMPLATES:
        yield (
          f"{where}.chat_template_kwargs.{part} holds {name!r}; valid: any name"
          f" that a chat template may know, but {', '.join(_NOT_OF_TEMPLATES)}"
        )


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
      and ":" in str(term["function"])
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
  if grpo.ratio_cap is not None:
    if grpo.loss_type in ("cispo", "sapo"):
      yield (
        f"config.grpo.ratio_cap={grpo.ratio_cap} has no effect with"
        f" loss_type={grpo.loss_type}; leave it None"
      )
    if grpo.ratio_cap <= 1:
      yield (
        f"config.grpo.ratio_cap={grpo.ratio_cap} must be above 1 (the"
        " ratio of an unchanged policy), or None"
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
