"""The quickstart cut down until it takes seconds: what is changed in it."""

import pathlib

import jax.numpy as jnp

from atlas_jax.data import teachable_examples, teachable_model
from atlas_jax.model import decoder, hf

STEPS = 4
CHANGES = {
  "phases": "('sft','grpo','evaluate','export')",
  # Each start reads and measures all of them.
  "data.params": {"count": 120},
  "data.sft_params": {"count": 600},
  "sft.steps": 60,
  "sft.batch_rows": 8,
  "sft.checkpoint_every": 60,
  "sft.optimizer.learning_rate": 3e-3,
  "sft.optimizer.warmup_steps": 5,
  "grpo.steps": STEPS,
  "grpo.optimizer.warmup_steps": 1,
  "grpo.problems_per_step": 4,
  "grpo.group_size": 4,
  "grpo.refill_rounds": 1,
  "grpo.evaluate_every": 2,
  "grpo.evaluate_problems": 4,
  # So that a killed run has a step to do again.
  "grpo.checkpoint_every": 2,
  "episode.max_teaching_tokens": 24,
  "episode.max_solution_tokens": 16,
  "episode.max_probe_tokens": 12,
  # An untrained student is never right: lengths make the rewards differ.
  "reward.length_cost": 0.5,
  "evaluate.problems": 8,
  "evaluate.constant_teachings": "('Carry the one.',)",
  "evaluate.bootstrap_resamples": 200,
  "serving.teacher.kv_cache_bytes": 1 << 26,
  "serving.student.kv_cache_bytes": 1 << 26,
}
# Ends of names whose values depend on the clock or on a restart.
NOT_REPRODUCED = (
  *("seconds", "_per_second", "time", "memory_gb", "programs_compiled"),
  *("_running", "_waiting"),
)


def write_model(path: pathlib.Path) -> pathlib.Path:
  """A model directory of the built-in task with random weights."""
  texts = [
    f"{e.fields['question']} {e.fields['probe']} {e.response}"
    for e in teachable_examples.sft_examples({"count": 500}, 0)
  ]
  scratch = path.with_name(path.name + "-scratch")
  teachable_model.write_scratch_model_dir(scratch, texts)
  hf_config = hf.read_config(scratch)
  config = decoder.DecoderConfig.from_hf(hf_config)
  model = hf.init(config, 0, jnp.float32)
  hf.save(path, model, config, hf_config, source_dir=scratch, dtype=jnp.float32)
  return path
