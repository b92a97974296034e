"""Whole runs in the small world, and what they leave."""

import json

from atlas_jax.online.search import optimize
from tests.online import small_world

SECRET = "sk-atlas-0123456789abcdef"


def run(folder, url, environ=None, **changes):
  """Runs to the end; the run directory."""
  config = small_world.config(folder, url, **changes)
  optimize.optimize(config, folder / "run", environ or {})
  return folder / "run"


def read(path):
  return json.loads(path.read_text(encoding="utf-8"))


def untimed(facts: dict) -> dict:
  """Without wall times, which no two runs share."""
  for arm in facts["evaluation"]["arms"]:
    del arm["seconds_per_problem"]
  return facts


def spent(workdir) -> dict:
  """role -> (calls, tokens, dollars) of calls that were answered."""
  return {
    x["role"]: (x["answered"], x["tokens"], x["dollars"])
    for x in read(workdir / "costs.json")
  }
