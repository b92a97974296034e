"""The programs of a run's phases, and what stays beside their arguments."""

import jax
import numpy as np
import pytest

from atlas_jax.config import GrpoConfig, RunConfig, SftConfig
from atlas_jax.data.packing import PackedBatch
from atlas_jax.phases import trainer
from atlas_jax.preflight import programs
from atlas_jax.sharding import make_mesh, put_batch
from atlas_jax.training import step
from tests.training import tiny


@pytest.mark.slow
def test_every_program_of_a_run_and_what_is_resident():
  config = RunConfig(
    phases=("sft", "evaluate", "grpo"),
    teacher=tiny.OPTIONS,
    sft=SftConfig(batch_rows=3, row_length=16),
    grpo=GrpoConfig(
      problems_per_step=1,
      group_size=2,
      row_length=16,
      beta=0.1,
      epochs=2,
      reference_dtype="bfloat16",
    ),
  )
  found = programs.compiled(config, tiny.ARCHITECTURE, jax.devices()[:1])
  by_name = {p.name: p for p in found}
  assert list(by_name) == [
    *("sft train", "grpo train", "grpo score", "grpo prepare"),
    "grpo publish",
  ]
  weights = sum(x.size for x in jax.tree.leaves(tiny.model()))
  # Master weights and two moments in float32; a little beside matrices.
  state, reference = 3 * 4 * weights, 2 * weights
  for name, resident in (
    ("sft train", 0),
    ("grpo train", reference),
    ("grpo score", state),
    ("grpo prepare", state - 4 * weights + reference),
    ("grpo publish", state + reference),
  ):
    assert abs(by_name[name].resident - resident) < 0.02 * state, name
  for name in ("sft train", "grpo train"):
    one = by_name[name]
    assert 0 < one.arguments - state < 0.05 * state
    assert one.peak > one.arguments and one.temporaries > 0
    assert "HloModule" in one.text
  assert by_name["sft train"].rows_at_once == 1
  # No array was made; with real ones the step asks for the same.
  mesh = make_mesh(config.mesh, jax.devices()[:1])
  with jax.set_mesh(mesh):
    tx, train = trainer.make_update(config, config.sft, tiny.ARCHITECTURE, 99)
    ids, numbers = (np.ones((3, 1, 16), kind) for kind in ("i4", "f4"))
    batch = put_batch(PackedBatch(*[ids] * 4, *[numbers] * 6), mesh, 1)
    real = train.lower(step.init_state(tiny.model(), tx), batch).compile()
  real, found = real.memory_analysis(), by_name["sft train"]
  for ours, known in (
    (found.arguments, real.argument_size_in_bytes),
    (found.temporaries, real.temp_size_in_bytes),
    (found.peak, real.peak_memory_in_bytes),
  ):
    assert ours == pytest.approx(known, rel=0.05)
