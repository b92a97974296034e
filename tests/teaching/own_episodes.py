"""Episodes for the user's own functions, made by hand."""

from atlas_jax.data.problems import make_problem
from atlas_jax.serving.client import Completion
from atlas_jax.teaching.episode import Teaching, TeachingEpisode
from atlas_jax.teaching.requests import Solution


def episode(*teachings: str) -> TeachingEpisode:
  """1+1, right half the time alone, and with each of the teachings."""
  completion = Completion("x", (1,), (0.0,), "stop", 1)
  right, wrong = (Solution(text, 10, "stop") for text in ("2", "3"))
  return TeachingEpisode(
    problem=make_problem("1+1", "2"),
    baseline=(right, wrong),
    approach="",
    teacher_prompt_ids=(1,),
    teachings=tuple(
      Teaching(completion, text, "ok", 5, right) for text in teachings
    ),
    seconds={},
  )
