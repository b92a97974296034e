"""What every test shares: the CPU as JAX's device, and tiny models on disk."""

import os
import pathlib

import pytest

_REPO = pathlib.Path(__file__).resolve().parent.parent
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_REPO / ".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


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
def repo_root() -> pathlib.Path:
  """The checkout: where `python -m` finds atlas_jax and tests."""
  return _REPO


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """What runs beside what with `pytest -n 2 --dist=loadgroup`.

  Tests of real servers share fixtures, and mostly wait: they make one group,
  which starts first. Of the others every file is a group.
  """

  def group(item):
    return "servers" if item.get_closest_marker("vllm") else str(item.path)

  items.sort(key=lambda item: group(item) != "servers")
  for item in items:
    item.add_marker(pytest.mark.xdist_group(group(item)))
