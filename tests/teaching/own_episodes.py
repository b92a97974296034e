"""Episodes for the user's own functions, made by hand."""

from atlas_jax.data.problems import make_problem
from atlas_jax.teaching.protocol import Teaching, TeachingEpisode
from atlas_jax.teaching.speakers import Said


def episode(*teachings: str) -> TeachingEpisode:
  """1+1, right half the time alone, and with each of the teachings."""
  said = Said("x", 1, "stop")
  right, wrong = (Said(text, 10, "stop") for text in ("2", "3"))
  return TeachingEpisode(
    problem=make_problem("1+1", "2"),
    baseline=(right, wrong),
    probe="",
    teachings=tuple(Teaching(said, text, "ok", 5, right) for text in teachings),
    seconds={},
  )
