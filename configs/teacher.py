"""Train a teacher of your own: `--config=configs/teacher.py:VARIANT`.

Variants, of which one must be named: smollm2 (135M parameters, a demonstration
on one CPU) and qwen3_8b (the published recipe of ATLAS). Any key can be
overridden: `--config.teacher.path=DIR --config.student.path=DIR
--config.data.path=FILE.jsonl --config.grpo.beta=0.04`.

Prompts that an optimisation has found (launchers/optimize.py) take the place
of config.prompts with `--config.prompts_path=RUN/best_prompts.json`, and its
successful episodes are examples for SFT with
`--config.data.sft_source=episodes --config.data.sft_path=RUN/episodes`.
"""

from atlas_jax.config import default_config


def _smollm2():
  """Real weights, real problems: a warm-up, three GRPO steps, evaluation.

  Source: ours; it shows that a real model runs, not that it learns.
  Hardware: two CPU cores. Hours, result: not measured.
  Command: bash launchers/setup.sh --smollm2; rows of GSM8K under data/gsm8k;
    python -m launchers.train --config=configs/teacher.py:smollm2 \\
        --workdir=runs/smollm2

  The model never writes the tags by itself, and without them no teaching is
  better than another: the built-in examples show it the form.
  """
  config = default_config()
  config.phases = ("sft", "grpo", "evaluate")
  config.data.sft_source = "teachable_sft"
  config.sft.steps = 8
  config.sft.batch_rows = 4
  config.sft.row_length = 256
  config.sft.optimizer.learning_rate = 2e-4
  config.sft.optimizer.warmup_steps = 1
  config.teacher.path = "models/smollm2-135m"
  config.teacher.remat = "none"
  config.student.path = "models/smollm2-135m"
  config.data.source = "gsm8k"
  config.data.path = "data/gsm8k/train.jsonl"
  config.data.test_path = "data/gsm8k/test.jsonl"
  config.teacher.compute_dtype = "float32"
  config.grpo.steps = 3
  config.grpo.problems_per_step = 4
  config.grpo.group_size = 4
  config.grpo.refill_rounds = 0
  config.grpo.row_length = 1024
  config.grpo.checkpoint_every = 1
  config.grpo.baseline_samples = 2
  config.episode.max_teaching_tokens = 128
  config.episode.max_solution_tokens = 256
  config.evaluate.problems = 32
  # A float32 trainer beside a bfloat16 server, on a text that the warm-up has
  # made unlikely.
  config.serving.max_logprob_gap = 0.3
  for server, core in (
    (config.serving.teacher, "0"),
    (config.serving.student, "1"),
  ):
    server.max_model_len = 2048
    server.cpu_cores = core
  return config


def _qwen3_8b():
  """ATLAS as published: 8B teacher, 4B student, G 32, 250 steps.

  Source: ATLAS technical report and README (Arc Intelligence, 2025).
  Hardware: there 8 H100, four for vLLM and four for training. Here the mesh is
    what the machine has, and each server one more that a URL names.
  Hours: there 48 to 72; here not measured.
  Result: there accuracy +15.7%, 97% not made worse; here not measured.
  Command: python -m launchers.serve --config=configs/teacher.py:qwen3_8b \\
        --workdir=runs/qwen3_8b    # where the servers run, then
    python -m launchers.train --config=configs/teacher.py:qwen3_8b \\
        --workdir=runs/qwen3_8b --config.serving.teacher.url=URL \\
        --config.serving.student.url=URL

  What differs from the source:
    1. the loss: DAPO's, clipped higher than lower, with truncated correction
       for the sampler's log-probs; there is no clipping in the source;
    2. the reference stays; there 0.9 of it is replaced every 2 steps, which
       leaves its KL without effect (grpo.ref_ema_alpha, .ref_ema_every);
    3. a probe of 50 tokens, one for all teachings of a problem, and a baseline
       of grpo.baseline_samples; there both are sampled anew for each teaching;
    4. the reward also counts format and leaks, and a broken answer twice
       (configs/README.md).
  """
  config = default_config()
  config.phases = ("sft", "evaluate", "grpo", "evaluate", "export")
  config.teacher.path = "models/qwen3-8b"
  config.student.path = "models/qwen3-4b"
  config.data.source = "arc_rl"
  config.data.path = "data/arc_atlas_teach/training/rl.jsonl"
  config.data.sft_source = "arc_sft"
  config.data.sft_path = "data/arc_atlas_teach/training/sft.jsonl"
  config.sft.row_length = 16384
  config.sft.steps = 1000
  config.grpo.problems_per_step = 4
  config.grpo.group_size = 32
  config.grpo.row_length = 8192
  config.grpo.micro_batches = 4
  config.grpo.beta = 0.04
  config.episode.max_teaching_tokens = 4096
  config.episode.max_solution_tokens = 4096
  config.episode.teacher_temperature = 0.7
  config.evaluate.samples = 32
  config.evaluate.teacher_temperature = 0.7
  config.evaluate.student_temperature = 0.7
  for server in (config.serving.teacher, config.serving.student):
    server.max_model_len = 16384
    server.kv_cache_bytes = 40 << 30
  return config


VARIANTS = {"smollm2": _smollm2, "qwen3_8b": _qwen3_8b}


def get_config(variant: str = ""):
  if variant not in VARIANTS:
    what = f"unknown variant {variant!r} of" if variant else "name a variant:"
    raise ValueError(f"{what} configs/teacher.py; valid: {', '.join(VARIANTS)}")
  return VARIANTS[variant]()
