"""What an evaluation compares: arms over the same problems."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from atlas_jax import addresses
from atlas_jax.config_tree import NonNegativeFloat, PositiveInt


@dataclass(frozen=True)
class EvaluateConfig:
  split: Literal["train", "validation", "test"] = "test"
  problems: PositiveInt = 256
  samples: PositiveInt = 1  # solutions a problem in each arm
  teacher_temperature: NonNegativeFloat = 0.0
  student_temperature: NonNegativeFloat = 0.0
  # Teachings given to every problem alike; the best is the constant baseline.
  constant_teachings: tuple[str, ...] = ()
  # More teachers, of the architecture of teacher.path: run directories, or
  # models as teacher.path.
  teachers: tuple[str, ...] = ()
  # Files such as best_prompts.json: the run's teacher in other words.
  prompts: tuple[str, ...] = ()
  # Models as student.path that the teachers never met, one after the other.
  students: tuple[str, ...] = ()
  # Of their servers, which run already; none: the run starts them.
  student_urls: tuple[str, ...] = ()
  bootstrap_resamples: PositiveInt = 10_000

  def conflicts(self) -> Iterator[str]:
    if self.student_urls and len(self.student_urls) != len(self.students):
      yield (
        f"student_urls names {len(self.student_urls)} servers of"
        f" {len(self.students)} students; give one for each, or none"
      )
    for url in self.student_urls:
      if problem := addresses.problem(url):
        yield f"student_urls: {problem}; the servers' key is ATLAS_SERVER_KEY"
    for key in ("teachers", "prompts", "students"):
      given = getattr(self, key)
      if len({*given}) < len(given):
        yield f"{key}={given} names one twice"
    hottest = max(self.teacher_temperature, self.student_temperature)
    if self.samples > 1 and hottest == 0:
      yield (
        f"samples={self.samples} at temperature 0 are equal; raise"
        " config.evaluate.student_temperature, or ask for 1"
      )
