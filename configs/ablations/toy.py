"""What the ablations of the built-in task share: the quickstart's road.

Their rows start from one student and one teacher after SFT, made once a seed.
"""

try:
  from configs import quickstart
except ImportError:  # installed
  from atlas_jax.configs import quickstart

QUICKSTART = quickstart.__file__


def base():
  """The quickstart's teacher; it starts from the shared run `sft`."""
  config = quickstart.get_config()
  config.phases = ("grpo", "evaluate")
  config.teacher.path = "{sft}/export"
  config.student.path = "{student}/export"
  config.evaluate.constant_teachings = ()
  return config


def student():
  """The runs that make the student."""
  yield "untrained", "teachable", f"{QUICKSTART}:student", {}
  yield (
    *("student", "train", f"{QUICKSTART}:student"),
    {"teacher.path": "{untrained}"},
  )


def student_and_sft():
  """The runs that make the student and the teacher that GRPO starts from."""
  yield from student()
  yield (
    *("sft", "train", QUICKSTART),
    {"phases": ("sft", "export"), **starting_from_the_student()},
  )


def starting_from_the_student():
  return dict.fromkeys(("teacher.path", "student.path"), "{student}/export")
