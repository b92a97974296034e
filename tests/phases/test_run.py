"""What a run refuses, and where its first weights come from."""

import contextlib
import dataclasses
import faulthandler
import logging
import socket
import sys
import time
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import phases, sharding, stopping
from atlas_jax.config import (
  ConfigError,
  GrpoConfig,
  MeshConfig,
  Phase,
  RunConfig,
  default_config,
  resolve,
)
from atlas_jax.model import hf
from atlas_jax.phases import opening, training_phase
from tests.phases import small_sft


@pytest.fixture(scope="module")
def opened(model):
  """(config -> Opened) of an SFT phase on a tiny model."""

  def make(workdir, **changes):
    tree = default_config()
    tree.update_from_flattened_dict(
      {
        "phases": ("sft",),
        "data.params": {"count": 60},
        "data.sft_params": {"count": 60},
        "sft.batch_rows": 1,
        "teacher.path": str(model),
        **changes,
      }
    )
    return opening.open_run(resolve(tree), workdir)

  return make


def test_weights_come_from_files_or_are_drawn(opened, tmp_path):
  with jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])):
    run = opened(tmp_path)
    given = run.teacher
    first = given.first_directory(tmp_path, "bfloat16")
    assert str(first) == run.config.teacher.path
    changes = {"teacher.random_init": True, "seed": 3}
    drawn = opened(tmp_path, **changes).teacher
    path = drawn.first_directory(tmp_path, "bfloat16")
    assert path == tmp_path / "initial"
    config, served = hf.load(path, jnp.bfloat16)
    wanted = hf.init(config, 3, jnp.float32)
  for ours, server in zip(
    jax.tree.leaves(wanted), jax.tree.leaves(served), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(ours, jnp.bfloat16), server)
  pairs = zip(*map(jax.tree.leaves, (given.model, drawn.model)), strict=True)
  assert not all(np.array_equal(*pair) for pair in pairs)


def test_wandb_that_is_not_installed_is_seen_before_anything(
  opened, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(ConfigError, match="not installed"):
    opened(tmp_path, wandb_project="p")


def test_each_phase_that_a_config_may_name_is_run(model, monkeypatch, tmp_path):
  called = []
  for module, name in (
    *((phases.sft, "train"), (phases.grpo, "train")),
    *((phases.evaluate, "evaluate"), (phases.export, "export")),
  ):
    monkeypatch.setattr(
      module, name, lambda entry, *_, **__: called.append(entry)
    )
  kinds = typing.get_args(Phase)
  config = small_sft.config(
    model, {"phases": kinds, "student.path": str(model)}
  )
  phases.run_phases(config, tmp_path / "run")
  assert [entry.kind for entry in called] == [*kinds]
  assert [entry.name for entry in called][1] == "1_grpo"


def test_a_signal_ends_all_processes_between_two_phases(
  model, monkeypatch, tmp_path
):
  called = []
  for module, name in ((phases.sft, "train"), (phases.export, "export")):
    monkeypatch.setattr(
      module, name, lambda entry, *_, **__: called.append(entry)
    )
  stop = stopping.Stopped(15)
  monkeypatch.setattr(phases.multihost, "stop_asked", lambda: stop)
  with pytest.raises(stopping.Stopped):
    phases.run_phases(small_sft.config(model, {}), tmp_path / "run")
  assert [entry.kind for entry in called] == ["sft"]


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({}, None),
    ({"seed": 1}, r"with config\.seed=1, the lead with 0: all must have one"),
    ({"grpo": GrpoConfig(beta=0.5)}, r"config\.grpo\.beta=0\.5, the lead"),
    ({"phases": ("sft",)}, r"config\.phases=\['sft'\], the lead"),
    ("code", "with code='cafe', the lead with '"),
    ("count", "with num_processes=3, the lead with 1"),
  ],
)
def test_a_process_that_was_started_otherwise_is_refused(
  changes, said, monkeypatch
):
  sent = []
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(opening.multihost, "call_on_all", lambda f: f())
  monkeypatch.setattr(
    opening.multihost, "broadcast_json", lambda x: sent.append(x) or sent[0]
  )
  opening.check_same(RunConfig())
  config = RunConfig()
  if changes == "code":
    digest = types.SimpleNamespace(
      update=lambda _: None, hexdigest=lambda: "cafe"
    )
    monkeypatch.setattr(opening.hashlib, "sha256", lambda: digest)
  elif changes == "count":
    state = types.SimpleNamespace(num_processes=3)
    monkeypatch.setattr(opening.distributed, "global_state", state)
  else:
    config = dataclasses.replace(config, **changes)
  context = contextlib.nullcontext()
  if said:
    context = pytest.raises(opening.multihost.HostsError, match=said)
  with context:
    opening.check_same(config)


def test_accelerators_of_the_host_that_are_not_used(tmp_path, caplog):
  for name in ("nvidia0", "nvidia1", "nvidiactl", "accel0"):
    (tmp_path / name).touch()
  assert phases.accelerators(tmp_path) == (0, 2)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "tpu")
    assert phases.accelerators(tmp_path) == (jax.local_device_count(), 1)
    patch.setattr(jax, "default_backend", lambda: "gpu")
    # One task a node saw one GPU of eight; two tasks a node see both theirs.
    for there, used in ((["another", 8], 1), ([socket.gethostname(), 1], 2)):
      patch.setattr(
        phases.multihost, "call_on_all", lambda f, o=there: [f(), o]
      )
      assert phases.accelerators(tmp_path)[0] == used


@pytest.mark.parametrize(("used", "warned"), [((1, 8), True), ((8, 8), False)])
def test_the_start_names_devices_mesh_and_parameters(
  opened, tmp_path, monkeypatch, caplog, used, warned
):
  monkeypatch.setattr(phases, "accelerators", lambda: used)
  mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
  with jax.set_mesh(mesh), caplog.at_level(logging.INFO, "atlas_jax.phases"):
    run = opened(tmp_path)
    one = run.teacher
    phases._log_devices(one, run.config)
    size = sum(x.size for x in jax.tree.leaves(one.model))
  first, *more = [r.getMessage() for r in caplog.records]
  assert "mesh data=1, fsdp=1, tensor=1, context=1" in first
  assert f"; {size} parameters" in first
  assert [("1 of the 8 accel" in m) for m in more] == [True] * warned
  # Not where the config gives GPUs to the servers.
  caplog.clear()
  split = dataclasses.replace(run.config.mesh, gpus="0")
  with jax.set_mesh(mesh), caplog.at_level(logging.INFO, "atlas_jax.phases"):
    phases._log_devices(one, dataclasses.replace(run.config, mesh=split))
  assert len(caplog.records) == 1


def test_rows_must_divide_over_the_context_axis(opened, tmp_path):
  mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
  two = types.SimpleNamespace(shape={**mesh.shape, "context": 2})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.sharding, "get_mesh", lambda: two)
    with pytest.raises(ConfigError, match=r"config\.sft\.row_length=33 .*=2"):
      opened(tmp_path, **{"sft.row_length": 33})


def test_a_stuck_step_shows_its_stacks(monkeypatch, capfd):
  monkeypatch.setattr(training_phase, "STUCK_S", 0.05)
  try:
    training_phase.TrainingPhase._watch_step(None)
    time.sleep(0.2)
  finally:
    faulthandler.cancel_dump_traceback_later()
  assert "test_a_stuck_step_shows_its_stacks" in capfd.readouterr().err
