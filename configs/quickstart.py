"""The whole road on one CPU: `bash launchers/quickstart.sh`.

Source: ours; the task is atlas_jax/data/teachable.py.
Hardware: two CPU cores, 16 GB. Hours: 0.06.
Result: accuracy 49.2% alone, 51.2% after SFT, 98.8% [96.6, 99.6] after GRPO
  (seed 0, 256 problems; seeds 1 to 6: 98.0% to 100.0%).

Variants: student makes the frozen student of the built-in `teachable` task
from nothing, other_student one that slips more often; teacher (the default)
starts from the student's weights, learns the format of teaching by SFT and
then, by GRPO, to teach that student. Without the checkout, these three in one
directory do the same:

  atlas-jax teachable --config=configs/quickstart.py:student
  atlas-jax train --config=configs/quickstart.py:student \
      --workdir=runs/quickstart/student
  atlas-jax train --config=configs/quickstart.py \
      --workdir=runs/quickstart/teacher
"""

from atlas_jax.config import default_config

UNTRAINED = "runs/quickstart/untrained"
STUDENT = "runs/quickstart/student/export"
# Terse: a tiny model reads every token.
PROMPTS = {
  "student_baseline": "Solve: {question}",
  "student_probe": "Outline: {question}",
  "teacher": "{question} Outline: {probe}",
  "student_taught": "{question} Hint: {teaching}",
}


def _common():
  config = default_config()
  config.data.source = "teachable"
  config.teacher.compute_dtype = "float32"
  config.teacher.remat = "none"
  config.teacher.logprob_chunk = 1024
  config.prompts.update(PROMPTS)
  return config


def small(server, core: str) -> None:
  """Makes a server one for the tiny models, on one core."""
  server.dtype = "float32"
  server.max_model_len = 256
  server.max_num_seqs = 256
  server.kv_cache_bytes = 256 << 20
  server.cpu_cores = core


def _student():
  config = _common()
  config.phases = ("sft", "export")
  config.teacher.path = UNTRAINED
  config.teacher.random_init = True
  config.data.sft_source = "teachable_student"
  config.sft.steps = 700
  config.sft.batch_rows = 16
  config.sft.rows_per_device = 16
  config.sft.row_length = 128
  config.sft.checkpoint_every = 100
  config.sft.optimizer.learning_rate = 5e-3
  config.sft.optimizer.warmup_steps = 50
  config.sft.optimizer.schedule = "cosine"
  config.sft.optimizer.b2 = 0.98
  config.export.dtype = "float32"
  return config


def _other_student():
  """One that the teacher never meets: half as much is familiar to it."""
  config = _student()
  config.data.sft_params = {"knows": 0.5}
  return config


def _teacher():
  config = _common()
  config.phases = ("sft", "evaluate", "grpo", "evaluate", "export")
  config.teacher.path = STUDENT
  config.student.path = STUDENT
  config.data.sft_source = "teachable_sft"
  config.sft.steps = 400
  config.sft.batch_rows = 16
  config.sft.rows_per_device = 16
  config.sft.row_length = 128
  config.sft.optimizer.learning_rate = 2e-3
  config.sft.optimizer.warmup_steps = 20
  config.episode.max_teaching_tokens = 48
  config.episode.max_solution_tokens = 64
  config.episode.max_probe_tokens = 50
  config.grpo.baseline_samples = 1
  config.episode.student_temperature = 0.0
  config.grpo.steps = 70
  config.grpo.problems_per_step = 32
  config.grpo.group_size = 8
  config.grpo.row_length = 256
  config.grpo.rows_per_device = 8
  config.grpo.refill_rounds = 0
  config.grpo.optimizer.learning_rate = 1e-3
  # 5 of 70, and as large a part of another --config.grpo.steps.
  config.grpo.optimizer.warmup_steps = config.grpo.get_ref("steps") // 14
  config.grpo.optimizer.schedule = "cosine"
  config.grpo.optimizer.final_fraction = 0.1
  # Rewards less the mean of their group, and no more: divided by their spread,
  # a token saved where all are right would count as much as an answer.
  config.grpo.advantage = "centred"
  # Holds the teacher near SFT: it makes its teachings of pieces of those.
  config.grpo.beta = 0.02
  config.grpo.checkpoint_every = 10
  config.reward.efficiency_weight = 0.2
  # As much as a fix gains: with more, silence is learned first.
  config.reward.degradation_penalty = 1.0
  config.evaluate.problems = 256
  config.evaluate.constant_teachings = (
    "Carry the one.",
    "Borrow from the tens.",
    "Go left to right.",
    "Your plan is good, keep it.",
  )
  small(config.serving.teacher, core="0")
  small(config.serving.student, core="1")
  config.serving.max_logprob_gap = 1e-3
  config.export.dtype = "float32"
  return config


VARIANTS = {
  "student": _student,
  "other_student": _other_student,
  "teacher": _teacher,
}


def get_config(variant: str = "teacher"):
  if variant not in VARIANTS:
    raise ValueError(
      f"unknown variant {variant!r} of configs/quickstart.py; valid:"
      f" {', '.join(VARIANTS)}"
    )
  return VARIANTS[variant]()
