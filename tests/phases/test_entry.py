"""An entry of config.phases: its name, and those before it."""

import dataclasses

from atlas_jax.config import RunConfig
from atlas_jax.phases.entry import PhaseEntry


def names(entry, *kinds):
  return [one.name for one in entry.entries(*kinds)]


def test_names_say_index_and_kind_and_stop_at_the_entry(tmp_path):
  kinds = ("evaluate", "sft", "evaluate", "grpo", "evaluate")
  config = dataclasses.replace(RunConfig(), phases=kinds)
  entry = PhaseEntry(config, tmp_path, 2)
  assert (entry.name, entry.kind) == ("2_evaluate", "evaluate")
  assert entry.options is config.evaluate
  assert names(entry, "evaluate") == ["0_evaluate", "2_evaluate"]
  assert names(entry, "grpo") == []
  last = PhaseEntry(config, tmp_path, 4)
  assert names(last, "sft", "grpo") == ["1_sft", "3_grpo"]
  assert entry.episodes == tmp_path / "episodes" / "2_evaluate.jsonl"


def test_checkpoints_lie_where_the_config_says(tmp_path):
  config = RunConfig(phases=("sft",))
  far = dataclasses.replace(config, checkpoints_dir=str(tmp_path / "far"))
  for one, folder in ((config, "checkpoints"), (far, "far")):
    PhaseEntry(one, tmp_path, 0).checkpoints().close()
    assert (tmp_path / folder / "0_sft").is_dir()
