"""One config, one process a run directory."""

import ast
import dataclasses
import json
import os
import pathlib

import pytest

from atlas_jax import directory, metrics
from atlas_jax.config import ConfigError, MeshConfig, default_config, resolve
from atlas_jax.directory import RunError
from atlas_jax.files import FileError


def config(**changes):
  tree = default_config()
  tree.update_from_flattened_dict(changes)
  return dataclasses.asdict(resolve(tree))


def test_the_same_config_is_welcome_again(tmp_path):
  directory.claim(tmp_path, config())
  directory.claim(tmp_path, config())
  assert directory.read_config(tmp_path) == resolve(default_config())


def test_another_config_is_refused_with_the_difference_alone(tmp_path):
  directory.claim(tmp_path, config())
  with pytest.raises(RunError) as error:
    directory.claim(tmp_path, config(**{"grpo.group_size": 4}))
  changes = str(error.value).split("\n")[1:]
  assert changes == ["-grpo.group_size: 8", "+grpo.group_size: 4"]
  assert directory.read_config(tmp_path).grpo.group_size == 8


# What must be given beside a key that is set.
BESIDE = {"evaluate.students": ("models/other",)} | {
  f"{part}.{key}": value
  for part, number in (
    ("mesh", "0"),
    ("serving.teacher", "1"),
    ("serving.student", "2"),
  )
  for key, value in (("gpus", number), ("gpu_memory_fraction", 0.5))
}
ROLES = "serving.teacher", "serving.student"
COUNTS = [
  f"{role}.{key}" for role in ROLES for key in ("replicas", "tensor_parallel")
]
# Of a key that changes: what changes with it.
ALONG = {key: {f"{key.rpartition('.')[0]}.gpus": "3-9"} for key in COUNTS}
CHANGED = {
  "serving.weights": "http",
  **{f"{role}.urls": ("http://127.0.0.1:1", "http://a:2") for role in ROLES},
  "evaluate.student_urls": ("http://127.0.0.1:1",),
  **{key: 0.25 for key in BESIDE if key.endswith("fraction")},
  **{key: "3" for key in BESIDE if key.endswith("gpus")},
}


MESH = [f"mesh.{name}" for name in vars(MeshConfig())]


@pytest.mark.parametrize("key", [*MESH, *directory.OPERATIONAL[1:]])
def test_where_a_run_runs_may_change(key, tmp_path):
  prompts = tmp_path / "best_prompts.json"
  prompts.write_text(json.dumps({"prompts": config()["prompts"]}))
  values = {int: 7, float: 7.0, str: "x", type(None): "http://x"}
  tree = default_config()
  value = tree
  for part in key.split("."):
    value = value[part]
  if key in CHANGED:
    value = CHANGED[key]
  else:
    value = str(prompts) if key == "prompts_path" else values[type(value)]
  directory.claim(tmp_path, config(**BESIDE))
  directory.claim(
    tmp_path, config(**BESIDE | ALONG.get(key, {}) | {key: value})
  )
  # What is written is what runs.
  saved = json.loads((tmp_path / "config.json").read_text())
  for part in key.split("."):
    saved = saved[part]
  assert saved == (list(value) if isinstance(value, tuple) else value)


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


@pytest.mark.parametrize("text", ["", "x", "../../other-run", "\x1b[2J", "é\n"])
def test_a_run_id_that_is_none_says_so(tmp_path, text):
  kept = directory.run_id(tmp_path)
  assert directory.run_id(tmp_path) == kept
  (tmp_path / "run_id").write_text(text)
  with pytest.raises(RunError, match="not a run's id") as error:
    directory.run_id(tmp_path)
  assert str(error.value).isprintable()


def test_a_directory_without_a_run_says_so(tmp_path):
  with pytest.raises(RunError, match="not a run directory"):
    directory.read_config(tmp_path)


OWN = [
  *("lock", "config.json", "config.json.partial", "metrics.jsonl"),
  *("record.sqlite", "record.sqlite-wal", "best_prompts.json"),
  *("candidates.json", "costs.json", "weights", "episodes", "checkpoints"),
  *("export", "report", "logs", "failed", "tensorboard", "initial"),
  *("logs/teacher.log", "report/sub"),
  "weights/weights-00000001.safetensors.partial",
]


@pytest.mark.parametrize("name", OWN)
def test_nothing_of_a_run_may_lie_elsewhere(name, tmp_path):
  outside = tmp_path / "outside"
  outside.mkdir()
  (outside / "weights-00000001.safetensors").write_text("mine")
  (outside / "text").write_text("mine")
  run = tmp_path / "run"
  path = run / name
  path.parent.mkdir(parents=True)
  makers = [
    lambda: path.symlink_to(outside),
    lambda: path.symlink_to(outside / "text"),
    lambda: path.symlink_to(outside / "new"),
    lambda: path.hardlink_to(outside / "text"),
    lambda: os.mkfifo(path),
  ]
  for make in makers:
    make()
    with pytest.raises(FileError) as error:
      directory.lock(run)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    path.unlink()
  directory.lock(run).close()
  assert {p.name: p.read_text() for p in outside.iterdir()} == {
    "weights-00000001.safetensors": "mine",
    "text": "mine",
  }


def test_the_directory_itself_may_be_a_link_and_own_things_lie_in_it(tmp_path):
  (tmp_path / "scratch").mkdir()
  run = tmp_path / "run"
  run.symlink_to(tmp_path / "scratch")
  (run / "notes").symlink_to("/etc/hostname")  # of a person
  (run / "checkpoints").mkdir()
  (run / "checkpoints" / "latest").symlink_to(".")
  directory.lock(run).close()
  directory.claim(run, config())
  assert (tmp_path / "scratch" / "config.json").is_file()


def test_the_lock_is_not_emptied(tmp_path):
  (tmp_path / "lock").write_text("mine")
  directory.lock(tmp_path).close()
  assert (tmp_path / "lock").read_text() == "mine"


@pytest.mark.parametrize(
  ("text", "why"),
  [("[" * 100_000, "recursion"), ("[]", "an object"), ("{", "not valid JSON")],
)
def test_a_config_that_is_none_is_one_line(text, why, tmp_path):
  (tmp_path / "config.json").write_text(text)
  for use in (
    lambda: directory.read_config(tmp_path),
    lambda: directory.claim(tmp_path, config()),
  ):
    with pytest.raises(RunError, match=why) as error:
      use()
    assert "config.json" in str(error.value) and "\n" not in str(error.value)


def test_a_key_of_another_version_is_said_with_its_file(tmp_path):
  (tmp_path / "config.json").write_text('{"new": 1}')
  with pytest.raises(ConfigError, match=r"/config\.json: unknown .*new"):
    directory.read_config(tmp_path)


def test_metrics_of_a_pipe_are_refused_and_bombs_dropped(tmp_path):
  os.mkfifo(tmp_path / "metrics.jsonl")
  with pytest.raises(FileError, match="pipe"):
    metrics.Writer(tmp_path, "sft", resume_step=0)
  (tmp_path / "metrics.jsonl").unlink()
  (tmp_path / "metrics.jsonl").write_text("[" * 100_000 + '\n{"a": 1}\n')
  assert list(metrics.lines(tmp_path / "metrics.jsonl")) == [{"a": 1}]


def test_every_name_that_the_package_writes_is_looked_at(repo_root):
  """`workdir / "NAME"` in the source is one of directory.NAMES."""
  found = set()
  for path in pathlib.Path(repo_root, "atlas_jax").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        left, right = ast.unparse(node.left), node.right
        if left.endswith("workdir") and isinstance(right, ast.Constant):
          found.add(right.value.split(".")[0])
  assert {"lock", "config", "weights", "record"} <= found
  assert found <= directory.NAMES
