"""Does GRPO need the SFT warm-up?

Without it the teacher starts as the student's own weights, which never wrote
the tags of a teaching. Expected: no teaching is well-formed, all rewards of a
group are equal, and nothing is learned; with SFT GRPO has something to choose
from.
"""

try:
  from configs.ablations import toy
except ImportError:  # installed
  from atlas_jax.configs.ablations import toy


def get_config():
  return toy.base()


shared = toy.student_and_sft


def sweep():
  yield "sft_then_grpo", {}
  yield "grpo_alone", {"teacher.path": "{student}/export"}
  yield "sft_alone", {"phases": ("evaluate",)}
