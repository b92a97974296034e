"""What every test shares: the CPU as JAX's device, and tiny models on disk."""

import functools
import gc
import importlib.metadata
import os
import pathlib

import pytest

_REPO = pathlib.Path(__file__).resolve().parent.parent
# Also of the processes that tests start. A tiny program is compiled for longer
# than it runs: with these in a quarter of the time, and once for all.
_ENVIRON = {
  # Of torch and NumPy, whose threads here only wait for each other.
  "OMP_NUM_THREADS": "1",
  "OPENBLAS_NUM_THREADS": "1",
  "JAX_PLATFORMS": "cpu",
  "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  "JAX_COMPILATION_CACHE_DIR": str(_REPO / ".cache" / "jax"),
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
# XLA ends a process over a flag that it does not know: a newer one may not.
if importlib.metadata.version("jaxlib").startswith("0.10."):
  _ENVIRON["XLA_FLAGS"] = (
    "--xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
  )
for _name, _value in _ENVIRON.items():
  os.environ.setdefault(_name, _value)
# An import or a trace makes many objects that stay: to look for garbage among
# them after each 700 is a third of its time.
gc.set_threshold(100_000, 20, 100)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, pathlib.Path]:
  """family -> directory of a tiny float32 model with a tokenizer."""
  from tests.model import tiny

  out = {}
  for family in tiny.FAMILIES:
    out[family] = tmp_path_factory.mktemp(family)
    tiny.save_model(out[family], family)
    tiny.save_tokenizer(out[family])
  return out


@pytest.fixture(scope="session")
def road_model(tmp_path_factory) -> pathlib.Path:
  """The model of tiny whole runs; whoever changes it copies it."""
  from tests.phases import tiny_road

  return tiny_road.write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def repo_root() -> pathlib.Path:
  """The checkout: where `python -m` finds atlas_jax and tests."""
  return _REPO


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
  """An empty cache of the Hub, and no network but a refused port."""
  from huggingface_hub import constants

  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
  return tmp_path / "cache"


@functools.cache
def _group(file: str) -> str:
  """Every file is a group, but those that share real servers are one."""
  if "mark.vllm" not in (_REPO / file).read_text():
    return file
  return str(pathlib.PurePath(file).parent)


@functools.cache
def _turn(file: str) -> int:
  """Long groups come first, so that none is alone at the end."""
  text = (_REPO / file).read_text()
  if "mark.vllm" in text:
    return 0 if _group(file) == "tests/phases" else 1
  if "mark.slow" in text:
    return 2
  compiles = file.startswith(("tests/model", "tests/training", "tests/phases"))
  return 3 if compiles else 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  items.sort(key=lambda item: _turn(item.nodeid.split("::")[0]))


def pytest_collection_finish() -> None:
  gc.collect()
  gc.freeze()  # what is imported by now stays


def pytest_xdist_make_scheduler(config: pytest.Config, log):
  """One group runs on one worker, in order; --dist=loadgroup would do the
  same, but it does not know pytest 9's node ids."""
  from xdist.scheduler import LoadScopeScheduling

  class ByGroup(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
      return _group(nodeid.split("::")[0])

  # Or the groups of most tests came first, and the longest at the end.
  config.option.loadscopereorder = False
  return ByGroup(config, log)
