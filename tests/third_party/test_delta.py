"""What is refused of a delta before a model is touched."""

import numpy as np
import pytest
import torch
from atlas_vllm import delta
from atlas_vllm.weights_file import InvalidWeights

from atlas_jax.serving import delta as sender

SHAPES = {"a": (400, 500), "b": (4,)}
F32, BF16, U16 = torch.float32, torch.bfloat16, torch.uint16


def entries(**changes):
  made = {
    "a.values": torch.tensor([1.0, 2.0, 3.0]),
    "a.gaps": torch.tensor([3, 0, 1, 2], dtype=U16),
    "b.values": torch.tensor([4.0]),
    "b.gaps": torch.tensor([4], dtype=U16),
  }
  made |= {name.replace("_", "."): value for name, value in changes.items()}
  return {name: value for name, value in made.items() if value is not None}


def test_indices_and_values_by_hand():
  changes = delta.parse(entries(), SHAPES, F32)
  assert changes["a"].indices.tolist() == [2, 65538, 65540]
  assert changes["a"].values.tolist() == [1.0, 2.0, 3.0]
  assert changes["b"].indices.tolist() == [3]
  assert delta.parse({}, SHAPES, F32) == {}


def test_reads_what_the_trainer_writes():
  rng = np.random.default_rng(0)
  old = np.zeros(SHAPES["a"], np.float32)
  new = old.copy()
  where = np.sort(rng.choice(new.size, 9, replace=False))
  new.reshape(-1)[where] = rng.normal(size=9)
  made = dict(sender.entries("a", old, new))
  read = {name: torch.from_numpy(value) for name, value in made.items()}
  change = delta.parse(read, SHAPES, F32)["a"]
  assert change.indices.tolist() == where.tolist()
  assert change.values.tolist() == new.reshape(-1)[where].tolist()


@pytest.mark.parametrize(
  "bad, reason",
  [
    ({"z_values": torch.ones(1)}, "unknown to the model: z"),
    ({"a_more": torch.ones(1)}, r"neither values nor gaps: a\.more"),
    ({"b_gaps": None}, r"lacks entries: b\.gaps"),
    ({"b_values": None}, r"lacks entries: b\.values"),
    ({"b_values": torch.ones(1, dtype=BF16)}, "bfloat16 values .* of b"),
    ({"b_gaps": torch.ones(1, dtype=torch.int32)}, r"int32 gaps of b"),
    ({"b_values": torch.ones(1, 1)}, "of b that are not flat"),
    ({"b_values": torch.ones(2)}, "1 indices for 2 values of b"),
    (
      {"b_values": torch.ones(0), "b_gaps": torch.zeros(1, dtype=U16)},
      "1 gaps for 0 values of b",
    ),
    ({"a_values": torch.ones(4)}, "3 indices for 4 values of a"),
    (
      {"b_gaps": torch.tensor([5], dtype=U16)},
      r"index 4 of b, whose shape is \(4,\)",
    ),
    (
      {"a_gaps": torch.tensor([3, 0, 0, 0, 3393, 1], dtype=U16)},
      r"index 200001 of a, whose shape is \(400, 500\)",
    ),
    ({"b_values": torch.tensor([float("nan")])}, "infinite values in: b"),
    ({"b_values": torch.tensor([-float("inf")])}, "infinite values in: b"),
  ],
)
def test_damage_is_refused(bad, reason):
  with pytest.raises(InvalidWeights, match=reason):
    delta.parse(entries(**bad), SHAPES, F32)


@pytest.mark.parametrize(
  "metadata, held, reason",
  [
    ({"base": "4", "version": "5"}, None, "version 4, and the server has had"),
    ({"base": "4", "version": "5"}, "3", "version 4, and the server holds 3"),
    ({"version": "5"}, "4", "holds 4"),
    ({"base": "4", "version": "6"}, "4", "makes version 6, not 5"),
    ({"base": "4"}, "4", "makes version None, not 5"),
  ],
)
def test_versions_must_follow(metadata, held, reason):
  with pytest.raises(InvalidWeights, match=reason):
    delta.check_versions(metadata, "5", held)
  delta.check_versions({"base": "4", "version": "5"}, "5", "4")
