"""Whole runs in the small world, and what they leave."""

import json

from atlas_jax.online.search import optimize
from tests.online import small_world

SECRET = "sk-atlas-0123456789abcdef"
# Keys of the config of a run whose models all want the secret.
KEYS = {
  f"{role}__api_key_env": "ATLAS_TEST_KEY"
  for role in ("student", "teacher", "reflection_model")
}


def run(folder, url, environ=None, **changes):
  """Runs to the end; the run directory."""
  config = small_world.config(folder, url, **changes)
  optimize.optimize(config, folder / "run", environ or {})
  return folder / "run"


def read(path):
  return json.loads(path.read_text(encoding="utf-8"))


def facts_of(workdir) -> dict:
  """The choice, without wall times, which no two runs share."""
  facts = read(workdir / "report" / "optimize.json")
  for arm in facts["evaluation"]["arms"]:
    del arm["seconds_per_problem"]
  return facts


def holds_no_secret(workdir) -> None:
  """Asserts it of every file."""
  files = [p for p in workdir.rglob("*") if p.is_file()]
  assert len(files) > 10
  for path in files:
    assert SECRET.encode() not in path.read_bytes(), path
  assert "ATLAS_TEST_KEY" in (workdir / "config.json").read_text()


def episodes(workdir, split) -> list[dict]:
  path = workdir / "episodes" / f"{split}.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def spent(workdir) -> dict:
  """role -> (calls, tokens, dollars) of calls that were answered."""
  return {
    x["role"]: (x["answered"], x["tokens"], x["dollars"])
    for x in read(workdir / "costs.json")
  }
