"""One config, one process a run directory."""

import json

import pytest

from atlas_jax import directory
from atlas_jax.config import default_config, resolve, to_dict
from atlas_jax.directory import RunError


def config(**changes):
  tree = default_config()
  tree.update_from_flattened_dict(changes)
  return to_dict(resolve(tree))


def test_the_same_config_is_welcome_again(tmp_path):
  directory.claim(tmp_path, config())
  directory.claim(tmp_path, config())
  assert directory.read_config(tmp_path) == resolve(default_config())


def test_another_config_is_refused_with_the_difference_alone(tmp_path):
  directory.claim(tmp_path, config())
  with pytest.raises(RunError) as error:
    directory.claim(tmp_path, config(**{"grpo.group_size": 4}))
  changes = str(error.value).split("\n")[1:]
  assert [line.strip("-+ ,") for line in changes] == [
    '"group_size": 8',
    '"group_size": 4',
  ]
  assert directory.read_config(tmp_path).grpo.group_size == 8


@pytest.mark.parametrize("key", directory.OPERATIONAL)
def test_where_a_run_runs_may_change(key, tmp_path):
  values = {int: 7, float: 7.0, str: "x", type(None): "http://x"}
  tree = default_config()
  value = tree
  for part in key.split("."):
    value = value[part]
  directory.claim(tmp_path, config())
  directory.claim(tmp_path, config(**{key: values[type(value)]}))
  # What is written is what runs.
  saved = json.loads((tmp_path / "config.json").read_text())
  for part in key.split("."):
    saved = saved[part]
  assert saved == values[type(value)]


def test_one_process_at_a_time(tmp_path):
  with (
    directory.lock(tmp_path / "run"),
    pytest.raises(RunError, match="in use by another run"),
  ):
    directory.lock(tmp_path / "run")
  directory.lock(tmp_path / "run").close()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / "a" / "x.json"
  directory.write_json(path, {"a": 1})
  with pytest.raises(TypeError):
    directory.write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": 1}


def test_a_directory_without_a_run_says_so(tmp_path):
  with pytest.raises(RunError, match="not a run directory"):
    directory.read_config(tmp_path)
