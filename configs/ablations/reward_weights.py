"""What do the weights of the reward do: of saved tokens, of broken answers?

Efficiency pays for a shorter answer, the degradation penalty takes for an
answer that teaching broke. Expected: without the first, answers grow; without
the second, more of what was right alone is lost; with a heavy one the teacher
says nothing.
"""

try:
  from configs.ablations import toy
except ImportError:  # installed
  from atlas_jax.configs.ablations import toy


def get_config():
  return toy.base()


shared = toy.student_and_sft


def sweep():
  yield "base", {}
  yield "no_efficiency", {"reward.efficiency_weight": 0.0}
  yield "efficiency_1", {"reward.efficiency_weight": 1.0}
  yield "no_degradation", {"reward.degradation_penalty": 0.0}
  yield "degradation_4", {"reward.degradation_penalty": 4.0}
