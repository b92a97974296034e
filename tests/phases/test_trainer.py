"""The trainer of the GRPO phase, without servers, on a model of one table."""

import dataclasses
import json
import os
import shutil
import signal
import types
import zlib

import jax
import numpy as np
import pytest

from atlas_jax import sharding, stopping
from atlas_jax.checkpoint import CheckpointError, Checkpoints
from atlas_jax.config import (
  GrpoConfig,
  LoraConfig,
  MeshConfig,
  OptimizerConfig,
  RunConfig,
)
from atlas_jax.data import packing
from atlas_jax.model import lora
from atlas_jax.phases import grpo
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.trainer import make_grpo_step
from atlas_jax.phases.training_phase import TrainingError, TrainingPhase
from atlas_jax.training import optimizer, scoring
from atlas_jax.training import step as step_lib
from tests.training import tiny

STEPS = 2
_shared_steps = {}


@pytest.fixture(autouse=True)
def table(monkeypatch):
  """Log-probs from the embedding alone: nothing else takes time to compile."""

  def score(model, architecture, options, batch, temperature, with_entropy):
    x = model.embedding[...].sum(-1)[batch.tokens]
    scores = -3 - jax.nn.softplus(x)
    return (scores, x**2) if with_entropy else scores

  for module in (step_lib, scoring):
    monkeypatch.setattr(module, "score", score)


class Phase(TrainingPhase):
  """A GRPO phase without its loop: it updates on given sequences."""

  def __init__(self, entry, teacher, tx, update):
    cfg = entry.options
    dtype = cfg.reference_dtype if cfg.beta > 0 else None
    super().__init__(entry, teacher, cfg.steps, tx, reference_dtype=dtype)
    self._update = update

  def update(self, step, sequences):
    """What grpo.py does between sampling and publishing."""
    packed = pack(sequences)
    self.state, numbers = self._update(self.state, self.reference, packed)
    self.check_update(step, numbers, packed)
    return numbers

  def finish(self, step, beside):
    grpo.finish_step(self, step, beside)


def pack(sequences):
  return packing.pack(sequences, length=32, rows_multiple=2)[0]


def _trainer(tmp_path, steps=STEPS, rank=0, **options) -> Phase:
  """On one device, with the tiny model of the training tests."""
  model, lora_options = tiny.model(), LoraConfig(rank=rank)
  if rank:
    model = lora.join(model, tiny.adapters(rank))
  teacher_options = dataclasses.replace(tiny.OPTIONS, lora=lora_options)
  config = RunConfig(
    phases=("sft", "grpo"),
    teacher=teacher_options,
    keep_checkpoints=100,
    grpo=GrpoConfig(
      steps=steps,
      row_length=32,
      rows_per_device=2,
      optimizer=OptimizerConfig(
        learning_rate=1e-2,
        warmup_steps=0,
        schedule="linear",
      ),
      **options,
    ),
  )
  teacher = types.SimpleNamespace(
    model=model,
    options=teacher_options,
    decoder_config=tiny.ARCHITECTURE,
    put=packing.split_micro,
    mesh=sharding.make_mesh(MeshConfig(fsdp=1)),
    abstract=lambda: jax.eval_shape(lambda: model),
  )
  # Trainers of one config share what was traced and compiled for the first.
  key = repr(config)
  if key not in _shared_steps:
    _shared_steps[key] = make_grpo_step(config, teacher)
  return Phase(PhaseEntry(config, tmp_path, 1), teacher, *_shared_steps[key])


def test_a_step_makes_as_many_updates_as_it_has_epochs(tmp_path):
  trainer = _trainer(tmp_path, epochs=3, entropy_share=0.5)
  sequences = tiny.sequences(6)
  numbers = trainer.update(1, sequences)
  assert int(optimizer.updates_done(trainer.state.opt_state)) == 3
  # The first update is on-policy, the next ones are not.
  assert abs(numbers["ratio_mean"] - 1) > 1e-4
  # 1e-2 falls to 0 over all updates, not over the steps: 6/6, 5/6, 4/6.
  assert numbers["learning_rate"] == pytest.approx(1e-2 * 5 / 6)
  assert numbers["update_skipped"] == 0
  numbers = trainer.update(1, sequences)
  assert numbers["learning_rate"] == pytest.approx(1e-2 * 2 / 6)
  trainer.close()


def test_a_step_above_the_gradient_bound_changes_nothing(tmp_path):
  trainer = _trainer(tmp_path, skip_grad_norm=1e-6)
  numbers = trainer.update(1, tiny.sequences(6))
  assert numbers["update_skipped"] == 1
  assert int(optimizer.updates_done(trainer.state.opt_state)) == 0
  for new, old in zip(
    jax.tree.leaves(trainer.state.model),
    jax.tree.leaves(tiny.model()),
    strict=True,
  ):
    np.testing.assert_array_equal(new, old)
  trainer.close()


def test_a_run_that_never_updates_stops_and_keeps_its_batch(tmp_path):
  trainer = _trainer(tmp_path, skip_grad_norm=1e-6, max_skipped_steps=2)
  sequences = tiny.sequences(6)
  trainer.update(1, sequences)
  with pytest.raises(TrainingError, match=r"2 steps in a row.*1_grpo_2\.npz"):
    trainer.update(2, sequences)
  saved = np.load(tmp_path / "failed" / "1_grpo_2.npz")
  packed = pack(sequences)
  for name, array in packed._asdict().items():
    np.testing.assert_array_equal(saved[name], array)
  trainer.close()


def test_an_update_that_counts_starts_the_count_anew(tmp_path):
  trainer = _trainer(tmp_path, max_skipped_steps=2)
  good = tiny.sequences(6)
  bad = [dataclasses.replace(s, advantage=np.nan) for s in good]
  for step, sequences in enumerate((bad, good, bad), 1):
    numbers = trainer.update(step, sequences)
    assert numbers["update_skipped"] == (sequences is bad)
  with pytest.raises(TrainingError, match="gradient norm nan"):
    trainer.update(4, bad)
  trainer.close()


def test_programs_are_counted_and_few(tmp_path):
  _shared_steps.clear()
  trainer = _trainer(tmp_path)
  first = trainer.update(1, tiny.sequences(6))
  assert first["programs_compiled"] > 0
  trainer.update(2, tiny.sequences(6))  # outside a mesh: layouts settle
  for step in range(3, 9):  # of 1 to 12 rows
    jax.monitoring.record_event_duration_secs("/of/another/kind", 1.0)
    numbers = trainer.update(step, tiny.sequences(3 * step - 7))
    assert numbers["programs_compiled"] == 0
  trainer.close()


@pytest.mark.parametrize(("alpha", "every"), [(0.25, 2), (0.0, 1)])
def test_the_reference_follows_every_so_many_steps(tmp_path, alpha, every):
  trainer = _trainer(
    tmp_path, beta=0.1, ref_ema_alpha=alpha, ref_ema_every=every
  )
  trainer._checkpoints.save = lambda *_: None

  def embedding(model):
    return np.asarray(model.embedding[...])

  start = embedding(trainer.reference)
  for step in (1, 2):
    trainer.update(step, tiny.sequences(6))
    trainer.finish(step, dict)
    if step == 1 or alpha == 0:
      np.testing.assert_array_equal(embedding(trainer.reference), start)
  policy = embedding(trainer.state.model)
  expected = alpha * policy + (1 - alpha) * start
  assert np.abs(policy - start).max() > 1e-4
  np.testing.assert_allclose(embedding(trainer.reference), expected, rtol=1e-6)
  trainer.close()


def _steps(tmp_path) -> list[int]:
  folder = tmp_path / "checkpoints" / "1_grpo"
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


@pytest.mark.parametrize(
  ("beta", "alpha", "rank"),
  [
    (0.1, 0.25, 2),
    *(
      pytest.param(*of, marks=pytest.mark.slow)
      for of in ((0.0, 0.0, 0), (0.1, 0.25, 0), (0.1, 0.0, 0), (0.1, 0.0, 2))
    ),
  ],
)
def test_a_trainer_that_is_restored_goes_on_to_the_bit(
  tmp_path, beta, alpha, rank
):
  options = {
    "rank": rank,
    "steps": 5,
    "checkpoint_every": 2,
    "beta": beta,
    "ref_ema_alpha": alpha,
    "ref_ema_every": 1,
  }

  def go(trainer, last):
    for step in range(trainer.done + 1, last + 1):
      trainer.update(step, tiny.sequences(6))
      trainer.finish(step, lambda step=step: {"after": step})
    trainer.close()
    return jax.tree.leaves((trainer.state, trainer.reference))

  whole = go(_trainer(tmp_path / "whole", **options), 5)
  assert _steps(tmp_path / "whole") == [2, 4, 5]
  shutil.copytree(tmp_path / "whole", tmp_path / "cut")
  for step in ("4", "5"):  # as if it had ended before
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "1_grpo" / step)
  again = _trainer(tmp_path / "cut", **options)
  assert (again.done, again.saved) == (2, {"after": 2})
  assert (again.reference is not None) is (beta > 0)
  saved = tmp_path / "cut" / "checkpoints" / "1_grpo" / "2"
  assert (saved / "reference").exists() is (alpha > 0)
  resumed = go(again, 5)
  assert len(whole) == len(resumed)
  for a, b in zip(whole, resumed, strict=True):
    np.testing.assert_array_equal(a, b)


FROZEN = {"steps": 2, "checkpoint_every": 1, "beta": 0.1}


def _saved(tmp_path) -> Phase:
  """A trainer with a frozen reference, closed after one step."""
  trainer = _trainer(tmp_path, **FROZEN)
  trainer.update(1, tiny.sequences(6))
  trainer.finish(1, dict)
  trainer.close()
  return trainer


def test_a_frozen_reference_must_be_what_it_was(tmp_path, monkeypatch):
  _saved(tmp_path)
  other = tiny.model(1)
  monkeypatch.setattr(tiny, "model", lambda *_: other)
  with pytest.raises(
    CheckpointError, match=r"the reference of checkpoint 1 .*checkpoints/0_sft"
  ) as error:
    _trainer(tmp_path, **FROZEN)
  assert "\n" not in str(error.value)


def test_a_reference_that_an_older_version_saved_is_compared(
  tmp_path, monkeypatch
):
  with monkeypatch.context() as patch:
    save = Checkpoints.save
    patch.setattr(Checkpoints, "save", lambda *a: save(*a[:4]))
    first = _saved(tmp_path)
  folder = tmp_path / "checkpoints" / "1_grpo" / "1"
  assert (folder / "reference").exists()
  content = json.loads((folder / "atlas.json").read_text().partition(" ")[2])
  del content["elsewhere"]
  text = json.dumps(content)
  (folder / "atlas.json").write_text(f"{zlib.crc32(text.encode())} {text}")
  again = _trainer(tmp_path, **FROZEN)
  assert again.done == 1
  for a, b in zip(
    *map(jax.tree.leaves, (first.reference, again.reference)), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  again.close()


def test_a_restored_trainer_knows_how_many_updates_were_left_out(tmp_path):
  options = {"steps": 9, "skip_grad_norm": 1e-6, "max_skipped_steps": 3}
  first = _trainer(tmp_path, checkpoint_every=1, **options)
  for step in (1, 2):
    first.update(step, tiny.sequences(6))
    first.finish(step, dict)
  first.close()
  again = _trainer(tmp_path, checkpoint_every=1, **options)
  with pytest.raises(TrainingError, match="3 steps in a row"):
    again.update(3, tiny.sequences(6))
  again.close()


def test_a_damaged_last_step_is_trained_and_saved_anew(tmp_path):
  def go():
    trainer = _trainer(tmp_path, steps=4, checkpoint_every=2)
    begun = trainer.done
    for step in range(begun + 1, 5):
      trainer.update(step, tiny.sequences(6))
      trainer.finish(step, dict)
    trainer.close()
    return begun

  assert go() == 0
  (tmp_path / "checkpoints" / "1_grpo" / "4" / "atlas.json").unlink()
  assert go() == 2
  assert go() == 4


def test_a_signal_saves_a_step_that_is_not_due(tmp_path):
  trainer = _trainer(tmp_path, steps=9, checkpoint_every=5)
  trainer.update(1, tiny.sequences(6))
  trainer.finish(1, dict)
  trainer.update(2, tiny.sequences(6))
  with pytest.raises(stopping.Stopped), stopping.listening(), stopping.held():
    os.kill(os.getpid(), signal.SIGTERM)
    trainer.finish(2, dict)
    pytest.fail("the step ends the run")
  with pytest.raises(stopping.Stopped):
    trainer.save(2, lambda: pytest.fail("it is saved already"))
  trainer.close()
  assert _steps(tmp_path) == [2]
