"""Runs of one process share the programs of their steps.

To trace a step takes a second or two, and a test stops a run and goes on with
it, or compares two of one config: each is given what was traced for the first.
A run that is a process of its own shares nothing.
"""

import functools
from collections.abc import Callable

from atlas_jax.phases import sft, trainer
from atlas_jax.training import scoring
from atlas_jax.training import step as step_lib

_made: dict[tuple, object] = {}


def _once(make: Callable, key: Callable) -> Callable:
  """`make`, but once for all calls of one key."""

  @functools.wraps(make)
  def shared(*given, **named):
    # Tests put other scores in the place of the model's.
    of = (make, step_lib.score, scoring.score, repr(key(*given, **named)))
    if of not in _made:
      _made[of] = make(*given, **named)
    return _made[of]

  return shared


def _of_update(config, cfg, architecture, updates):
  """All that make_update reads; a run's servers are not of it."""
  return config.teacher, config.episode, cfg, architecture, updates


def _of_scores(*given, **named):
  return given, named


def share(patch) -> None:
  """patch: a pytest.MonkeyPatch."""
  update = _once(trainer.make_update, _of_update)
  for module in (trainer, sft):
    patch.setattr(module, "make_update", update)
  for name in ("make_prepare_step", "make_score_step"):
    make = _once(getattr(scoring, name), _of_scores)
    patch.setattr(scoring, name, make)
