"""How long must the student's plan be for a teacher to use it?

The probe is what the teacher knows of this student. With 0 tokens there is no
probe: the teacher sees the problem alone. Expected: without it the teacher
cannot tell which misconception a student has and teaches the average one.
"""

try:
  from configs.ablations import toy
except ImportError:  # installed
  from atlas_jax.configs.ablations import toy


def get_config():
  return toy.base()


shared = toy.student_and_sft


def sweep():
  yield "probe_50", {"episode.max_probe_tokens": 50}
  for tokens in (25, 10, 0):
    yield f"probe_{tokens}", {"episode.max_probe_tokens": tokens}
