"""Names of the Hub: from a cache that the test makes, and never without it."""

import subprocess
import sys

import huggingface_hub
import pytest

from atlas_jax import hub
from tests.hub_cache import COMMIT, write_cache


def test_a_name_of_the_cache_needs_no_network(hub_cache, monkeypatch):
  files = ("config.json", "model.safetensors")
  snapshot = write_cache(hub_cache, "Qwen/Qwen3-8B", files=files)

  def network(*args, **kwargs):
    raise AssertionError("the network was asked")

  monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", network)
  for name in (
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-8B@main",
    f"Qwen/Qwen3-8B@{COMMIT}",
  ):
    assert hub.directory(name, "model") == snapshot
    assert hub.pinned(name) == f"Qwen/Qwen3-8B@{COMMIT}"
  assert (snapshot / "config.json").read_text() == "config.json"


def test_a_cache_of_the_tokenizer_alone_asks_for_the_weights(
  hub_cache, monkeypatch
):
  snapshot = write_cache(hub_cache, "org/m", files=("tokenizer.json",))
  asked = []
  real = huggingface_hub.snapshot_download

  def download(*args, **options):
    if options.get("local_files_only"):
      return real(*args, **options)
    asked.append(args)
    (snapshot / "model.safetensors").write_bytes(b"")
    return str(snapshot)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert hub.directory("org/m", "model", weights=False) == snapshot
  assert hub.pinned("org/m") == f"org/m@{COMMIT}"
  assert not asked
  assert hub.directory("org/m", "model") == snapshot
  assert hub.directory("org/m", "model") == snapshot
  assert asked == [("org/m",)]


def test_a_directory_of_that_name_comes_first(hub_cache, tmp_path, monkeypatch):
  write_cache(hub_cache, "models/teacher")
  monkeypatch.chdir(tmp_path)
  (tmp_path / "models" / "teacher").mkdir(parents=True)
  assert str(hub.directory("models/teacher", "model")) == "models/teacher"
  assert not hub.is_name("models/teacher")


def test_a_revision_that_is_a_branch_or_tag(hub_cache):
  snapshot = write_cache(hub_cache, "org/x.y-z_1", ref="v1.0")
  assert hub.directory("org/x.y-z_1@v1.0", "model") == snapshot
  with pytest.raises(hub.HubError, match=r"org/x\.y-z_1@v2 is no directory"):
    hub.directory("org/x.y-z_1@v2", "model")


@pytest.mark.parametrize(
  "path",
  [
    *("/no/such/model", "./no/such", "model", "a/b/c", "org/", "a b/c", ""),
    *("org/name@", "org/name@a b", "~/model", "../x", "hf://org/name"),
  ],
)
def test_what_is_neither_says_so(hub_cache, path):
  with pytest.raises(hub.HubError) as error:
    hub.directory(path, "model")
  assert "neither a directory nor the name of a model" in str(error.value)
  assert "\n" not in str(error.value)


def test_a_name_that_cannot_be_had_is_one_line(hub_cache):
  with pytest.raises(hub.HubError, match="org/none is no directory") as error:
    hub.directory("org/none", "model")
  assert "\n" not in str(error.value)


def test_files_of_data_are_no_names(hub_cache):
  for path in ("data/a.jsonl", "data/a.csv", "data/a.parquet", "data/a.json"):
    assert not hub.is_name(path)
  assert hub.is_name("Arc-Intelligence/Arc-ATLAS-Teach-v0")


def test_models_and_data_sets_of_one_name_are_two_things(hub_cache):
  model = write_cache(hub_cache, "a/b")
  data = write_cache(hub_cache, "a/b", kind="datasets")
  assert hub.directory("a/b", "model") == model
  assert hub.directory("a/b", "dataset") == data


def test_offline_mode_is_one_line(tmp_path, repo_root):
  program = (
    "from atlas_jax import hub\n"
    "try:\n  hub.directory('org/none', 'model')\n"
    "except hub.HubError as error:\n  print(error)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True,
    text=True,
    cwd=repo_root,
    env={
      "HF_HUB_OFFLINE": "1",
      "HF_HUB_CACHE": str(tmp_path),
      "PATH": "/usr/bin",
      "PYTHONPATH": str(repo_root),
    },
  )
  assert done.stdout.startswith("org/none is no directory here"), done.stderr
  assert done.stdout.count("\n") == 1
