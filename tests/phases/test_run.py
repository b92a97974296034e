"""What a run refuses, and where its first weights come from."""

import logging
import socket
import sys
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import metrics, phases, sharding
from atlas_jax.config import (
  ConfigError,
  GrpoConfig,
  MeshConfig,
  default_config,
  resolve,
)
from atlas_jax.model import hf
from atlas_jax.phases import grpo
from atlas_jax.phases.run import DisagreementError, Run
from tests.phases import tiny_road


def agreeing(theirs, bound):
  """A Run whose trainer says -1, -2 about the tokens of the fixed prompt."""
  run = object.__new__(Run)
  run.config = types.SimpleNamespace(
    serving=types.SimpleNamespace(max_logprob_gap=bound)
  )
  run.version, run._model = 7, "weights"
  run._probe = [5, 6, 7], lambda model: np.array([[[0.0, -1.0, -2.0, 9.0]]])
  run.servers = types.SimpleNamespace(teacher_logprobs=lambda ids: theirs)
  return run


def test_a_server_that_disagrees_ends_the_run():
  assert agreeing([-1.5, -2.1], 0.31)._check_agreement() == pytest.approx(0.3)
  with pytest.raises(DisagreementError, match=r"weights 7: .* 0\.3 is above"):
    agreeing([-1.5, -2.1], 0.29)._check_agreement()


def test_nan_is_no_agreement():
  with pytest.raises(DisagreementError):
    agreeing([-1.0, float("nan")], 1e9)._check_agreement()


@pytest.mark.parametrize(
  "options, warned",
  [
    ({"beta": 0.04, "ref_ema_alpha": 0.6, "ref_ema_every": 1}, True),
    ({"beta": 0.0, "ref_ema_alpha": 0.6, "ref_ema_every": 1}, False),
    ({"beta": 0.04, "ref_ema_alpha": 0.6, "ref_ema_every": 64}, False),
    ({"beta": 0.04, "ref_ema_alpha": 0.01, "ref_ema_every": 1}, False),
  ],
)
def test_a_reference_that_follows_the_policy_is_told_of(
  options, warned, caplog
):
  with caplog.at_level(logging.WARNING):
    grpo._warn(GrpoConfig(**options))
  assert ("KL penalty hardly holds" in caplog.text) is warned


@pytest.fixture(scope="module")
def sft_run(tmp_path_factory):
  """(config -> Run) of an SFT phase on a tiny model."""
  model = tiny_road.write_model(tmp_path_factory.mktemp("run") / "model")

  def make(workdir, **changes):
    tree = default_config()
    tree.update_from_flattened_dict(
      {"phases": ("sft",), "teacher.path": str(model), **changes}
    )
    return Run(resolve(tree), workdir, None)

  return make


def test_weights_come_from_files_or_are_drawn(sft_run, tmp_path):
  with jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])):
    given = sft_run(tmp_path)
    assert str(given._first_weights()) == given.config.teacher.path
    drawn = sft_run(tmp_path, **{"teacher.random_init": True, "seed": 3})
    path = drawn._first_weights()
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
  sft_run, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(metrics.MetricsError, match="not installed"):
    sft_run(tmp_path, wandb_project="p")


def test_accelerators_of_the_host_that_are_not_used(tmp_path, caplog):
  for name in ("nvidia0", "nvidia1", "nvidiactl", "accel0"):
    (tmp_path / name).touch()
  assert phases.accelerators(tmp_path) == (0, 2)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "tpu")
    assert phases.accelerators(tmp_path) == (jax.local_device_count(), 1)
    patch.setattr(jax, "default_backend", lambda: "gpu")
    # One task a node saw one GPU of eight; two tasks a node see both theirs.
    here = zlib.crc32(socket.gethostname().encode())
    for there, used in (([8, here - 1], 1), ([1, here], 2)):
      patch.setattr(
        phases.multihost, "gather", lambda x, o=there: np.array([x, o])
      )
      assert phases.accelerators(tmp_path)[0] == used


@pytest.mark.parametrize(("used", "warned"), [((1, 8), True), ((8, 8), False)])
def test_the_start_names_devices_mesh_and_parameters(
  sft_run, tmp_path, monkeypatch, caplog, used, warned
):
  monkeypatch.setattr(phases, "accelerators", lambda: used)
  mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
  with jax.set_mesh(mesh), caplog.at_level(logging.INFO, "atlas_jax.phases"):
    run = sft_run(tmp_path)
    phases._say_devices(run)
    size = sum(x.size for x in jax.tree.leaves(run.model))
  first, *more = [r.getMessage() for r in caplog.records]
  assert "mesh data=1, fsdp=1, tensor=1, context=1" in first
  assert f"; {size} parameters" in first
  assert [("1 of the 8 accel" in m) for m in more] == [True] * warned


def test_rows_must_divide_over_the_context_axis(sft_run, tmp_path):
  mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
  two = types.SimpleNamespace(shape={**mesh.shape, "context": 2})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.sharding, "get_mesh", lambda: two)
    with pytest.raises(ConfigError, match=r"config\.sft\.row_length=33 .*=2"):
      sft_run(tmp_path, **{"sft.row_length": 33})
