"""How much should a teacher say: short teaching, or as much as it likes?

A cost on the length of a teaching makes intervention short. Expected: with a
cost teachings shrink at equal accuracy until the cost exceeds what a word
brings; then the teacher falls silent.
"""

try:
  from configs.ablations import toy
except ImportError:  # installed
  from atlas_jax.configs.ablations import toy


def get_config():
  return toy.base()


shared = toy.student_and_sft


def sweep():
  yield "free", {"reward.length_cost": 0.0}
  yield "short", {"reward.length_cost": 0.5}
  yield "shortest", {"reward.length_cost": 2.0}
