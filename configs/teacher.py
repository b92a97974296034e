"""Train a teacher of your own: `--config=configs/teacher.py:VARIANT`.

Variants, of which one must be named: smollm2 (135M parameters, a demonstration
on one CPU), qwen05_gym and qwen05_gsm8k (a student of 0.5B parameters on two
cores), and the published recipe of ATLAS with servers and trainer on
accelerators of their own: qwen3_8b (trainer: 4 x H100 of 80 GB),
qwen3_8b_v5p16 and qwen3_8b_v5e64 (trainer: a TPU slice), qwen3_8b_lora_1gpu
(everything on one H100) and qwen3_1_7b_2gpu (trainer | servers). `python -m
launchers.compile --config=... --target=h100x4` (v5p:2x2x2, v5e:8x8) says what
fits. Any key can be
overridden: `--config.teacher.path=DIR --config.student.path=DIR
--config.data.path=FILE.jsonl --config.grpo.beta=0.04`.

Prompts that an optimisation has found (launchers/optimize.py) take the place
of config.prompts with `--config.prompts_path=RUN/best_prompts.json`, and its
successful episodes are examples for SFT with
`--config.data.sft_source=episodes --config.data.sft_path=RUN/episodes`.
"""

from atlas_jax.config import default_config

try:
  from configs import gym_hints, gym_problems
except ImportError:  # installed
  from atlas_jax.configs import gym_hints, gym_problems


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
  config.sft.rows_per_device = 4
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


def _qwen05_gym():
  """A 135M teacher learns what to tell a 0.5B student, and when nothing.

  Source: ours; the tasks are configs/gym_problems.py, the hints gym_hints.py.
  Hardware: two CPU cores, 17 GB. Hours: 2. Result: alone 21.6%, after SFT
    68.9, after GRPO 77.8; in 5% of its hints the answer stands (README.md).
  Command: bash launchers/setup.sh --smollm2 --qwen=packages
    python -m configs.gym_problems data/gym
    python -m launchers.train --config=configs/teacher.py:qwen05_gym \\
        --workdir=runs/gym

  SFT on several forms of a hint leaves GRPO the choice among them. There is no
  probe: what the student cannot do is learned from the reward.
  """
  config = default_config()
  config.phases = ("sft", "evaluate", "grpo", "evaluate", "export")
  config.teacher.path = "models/smollm2-135m"
  config.teacher.compute_dtype = "float32"
  config.teacher.remat = "none"
  config.teacher.logprob_chunk = 1024
  config.student.path = "models/qwen05-coder"
  config.data.source = "jsonl"
  config.data.path = "data/gym/train.jsonl"
  config.data.validation_path = "data/gym/validation.jsonl"
  config.data.test_path = "data/gym/test.jsonl"
  config.data.sft_source = "arc_sft"
  config.data.sft_path = "data/gym/sft.jsonl"
  config.data.verifier = f"{gym_problems.__name__}:right"
  config.prompts.update(gym_problems.PROMPTS)
  config.episode.max_probe_tokens = 0
  config.episode.max_teaching_tokens = 96
  config.episode.max_solution_tokens = 96
  config.episode.student_temperature = 0.0
  config.sft.steps = 96
  config.sft.batch_rows = 6
  config.sft.rows_per_device = 2
  config.sft.row_length = 1024
  config.sft.checkpoint_every = 10
  config.sft.optimizer.learning_rate = 4e-4
  config.sft.optimizer.warmup_steps = 5
  config.grpo.steps = 24
  config.grpo.problems_per_step = 16
  config.grpo.group_size = 8
  config.grpo.baseline_samples = 1
  config.grpo.refill_rounds = 0
  config.grpo.row_length = 1024
  config.grpo.rows_per_device = 2
  config.grpo.beta = 0.01
  config.grpo.checkpoint_every = 4
  config.grpo.evaluate_every = 8
  config.grpo.keep_best = True
  config.grpo.optimizer.learning_rate = 3e-5
  config.grpo.optimizer.warmup_steps = 2
  # A shorter right answer is no better.
  config.reward.efficiency_weight = 0.0
  config.evaluate.problems = 370
  config.evaluate.constant_teachings = (
    gym_hints.SILENCE,
    "Multiply the number of each animal by its legs. Write out the sum of the"
    " products = and the total.",
    "dog: 3 x 4 = 12; ant: 2 x 6 = 12. Write out 12 + 12 = and the total.",
    "Write out the larger number x 2, x 3, and so on, until it can be divided"
    " by the smaller.",
    "Answer with a list of two lists of two words.",
  )
  # A float32 trainer beside a bfloat16 server.
  config.serving.max_logprob_gap = 0.3
  for server, core in (
    (config.serving.teacher, "0"),
    (config.serving.student, "1"),
  ):
    server.max_model_len = 1024
    server.kv_cache_bytes = 512 << 20
    server.cpu_cores = core
  return config


def _qwen05_gsm8k():
  """A 0.5B teacher with adapters and a student like it, on GSM8K.

  Source: ours; SFT is on what helped in an optimisation of the prompts.
  Hardware: two CPU cores, 16 GB. Hours, result: not measured.
  Command: bash launchers/setup.sh --qwen=packages; rows of GSM8K under
      data/gsm8k
    python -m launchers.optimize --config=configs/online.py:local \\
        --workdir=runs/gsm8k_evolve \\
        --config.student.model=models/qwen05-coder \\
        --config.teacher.model=models/qwen05-coder \\
        --config.reflection_model.model=models/qwen05-coder
    python -m launchers.train --config=configs/teacher.py:qwen05_gsm8k \\
        --workdir=runs/gsm8k
  """
  config = _qwen05_gym()
  config.teacher.path = "models/qwen05-coder"
  config.teacher.lora.rank = 16
  config.teacher.lora.alpha = 32.0
  config.data.source = "gsm8k"
  config.data.path = "data/gsm8k/train.jsonl"
  config.data.validation_path = None
  config.data.test_path = "data/gsm8k/test.jsonl"
  config.data.sft_source = "episodes"
  config.data.sft_path = "runs/gsm8k_evolve/episodes"
  config.data.verifier = None
  config.prompts.update(default_config().prompts)
  config.episode.max_teaching_tokens = 160
  # At 300 many answers are cut.
  config.episode.max_solution_tokens = 512
  config.sft.steps = config.grpo.steps = 60
  config.grpo.update(problems_per_step=4, group_size=4, beta=0.0)
  config.grpo.update(evaluate_every=None, keep_best=False)
  config.grpo.optimizer.learning_rate = 1e-4
  config.evaluate.problems = 256
  config.evaluate.constant_teachings = (
    "Read the problem twice. Write one short line for each step.",
    "Write down each quantity with its unit, then compute step by step.",
  )
  for server in (config.serving.teacher, config.serving.student):
    server.max_model_len = 2048
  return config


def _qwen3_8b():
  """ATLAS as published: 8B teacher, 4B student, G 32, 250 steps.

  Source: ATLAS technical report and README (Arc Intelligence, 2025).
  Hardware: 8 H100 of 80 GB: four train, and each server has two engines, one
    a GPU. Servers on other machines: launchers.serve, and their URLs.
  Hours: there 48 to 72; here not measured.
  Result: there accuracy +15.7%, 97% not made worse; here not measured.
  Command: python -m launchers.train --config=configs/teacher.py:qwen3_8b \\
        --workdir=runs/qwen3_8b

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
  # A prompt and six of its teachings: at 8192 each would bring its own prompt.
  config.grpo.row_length = 32768
  config.grpo.reference_dtype = "bfloat16"
  config.teacher.logprob_chunk = 1024
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
  _place_servers(config, "4-5", "6-7", replicas=2)
  return config


def _place_servers(config, teacher: str, student: str, replicas: int):
  """Gives each role its GPUs, one for each of its engines."""
  config.serving.teacher.gpus, config.serving.student.gpus = teacher, student
  for server in (config.serving.teacher, config.serving.student):
    server.replicas = replicas


def _qwen3_8b_v5p16():
  """qwen3_8b with its trainer on a v5p-16, 8 chips of 95 GB.

  Source: as qwen3_8b; weights go to the servers by HTTP.
  Hardware: of the trainer 8 TPU v5p chips; both servers on a machine of 8 H100,
    four engines each.
  Hours, result: not measured.
  Command: launchers/tpu/qwen3_8b_v5p16.sh
  """
  config = _qwen3_8b()
  _place_servers(config, "0-3", "4-7", replicas=4)
  config.serving.weights = "http"
  return config


def _qwen3_8b_v5e64():
  """qwen3_8b with its trainer on a v5e-64, 64 chips of 16 GB.

  Source: as qwen3_8b_v5p16; a row is cut over four chips, or it would not fit
    one.
  Hardware: of the trainer 64 TPU v5e chips; servers as qwen3_8b_v5p16.
  Hours, result: not measured.
  Command: python -m launchers.cluster --kind=tpu --nodes=16+1 \\
        --config=configs/teacher.py:qwen3_8b_v5e64 > job.sh
  """
  config = _qwen3_8b_v5p16()
  config.mesh.context = 4
  return config


def _qwen3_8b_lora_1gpu():
  """qwen3_8b with adapters: trainer and both servers on one 80 GB card.

  Source: as qwen3_8b; adapters are ours (LoRA, 2106.09685).
  Hardware: one H100 of 80 GB. Hours, result: not measured.
  Command: python -m launchers.train \\
        --config=configs/teacher.py:qwen3_8b_lora_1gpu --workdir=runs/lora
    (--dry_run prints what each of the three gets)

  Rounding to the server's bfloat16 takes 97% of what ten updates at a learning
  rate of 1e-5 add, and 72% at 1e-4: adapters want rates near 1e-4.
  """
  config = _qwen3_8b()
  config.teacher.lora.rank = 32
  config.teacher.lora.alpha = 64.0
  config.teacher.param_dtype = "bfloat16"
  config.sft.row_length = config.grpo.row_length = 16384
  config.sft.optimizer.learning_rate = 2e-4
  config.grpo.optimizer.learning_rate = 1e-4
  config.mesh.gpus, config.mesh.gpu_memory_fraction = "0", 0.45
  teacher, student = config.serving.teacher, config.serving.student
  _place_servers(config, "0", "0", replicas=1)
  teacher.gpu_memory_fraction, student.gpu_memory_fraction = 0.29, 0.19
  for server in (teacher, student):
    server.kv_cache_bytes = 4 << 30
    server.max_num_seqs = 32
  return config


def _qwen3_1_7b_2gpu():
  """A 1.7B teacher and student, trainer | servers: one card each.

  Source: ours; the smallest layout of the ATLAS README, which is 1 + 1.
  Hardware: two cards of 80 GB. Hours, result: not measured.
  Command: python -m launchers.train \\
        --config=configs/teacher.py:qwen3_1_7b_2gpu --workdir=runs/small
  """
  config = _qwen3_8b()
  config.teacher.path = config.student.path = "models/qwen3-1.7b"
  config.mesh.gpus = "0"
  _place_servers(config, "1", "1", replicas=1)
  for server in (config.serving.teacher, config.serving.student):
    server.gpu_memory_fraction = 0.45
    server.kv_cache_bytes = 24 << 30
  return config


VARIANTS = {
  "smollm2": _smollm2,
  "qwen3_8b": _qwen3_8b,
  "qwen3_8b_v5p16": _qwen3_8b_v5p16,
  "qwen3_8b_v5e64": _qwen3_8b_v5e64,
  "qwen3_8b_lora_1gpu": _qwen3_8b_lora_1gpu,
  "qwen3_1_7b_2gpu": _qwen3_1_7b_2gpu,
  "qwen05_gym": _qwen05_gym,
  "qwen05_gsm8k": _qwen05_gsm8k,
}


def get_config(variant: str = ""):
  if variant not in VARIANTS:
    what = f"unknown variant {variant!r} of" if variant else "name a variant:"
    raise ValueError(f"{what} configs/teacher.py; valid: {', '.join(VARIANTS)}")
  return VARIANTS[variant]()
