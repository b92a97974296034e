"""The sparse delta: which values changed, and the codes of their indices."""

import numpy as np
import pytest

from atlas_jax.serving import delta
from tests.serving import delta_oracle


def test_changed_compares_bits():
  old = np.array([[0.0, 1.0, np.nan], [2.0, 3.0, 4.0]], np.float32)
  new = np.array([[-0.0, 1.0, np.nan], [2.0, 3.5, 4.0]], np.float32)
  assert delta.changed(old, new).tolist() == [0, 4]
  # In row order, whatever the memory's.
  assert delta.changed(old, np.asfortranarray(new)).tolist() == [0, 4]
  with pytest.raises(ValueError, match=r"float32 \(3, 2\) is no change of"):
    delta.changed(old, new.reshape(3, 2))
  with pytest.raises(ValueError, match="float64"):
    delta.changed(old, new.astype(np.float64))


@pytest.mark.parametrize(
  "indices, codes",
  [
    ([0], [1]),
    ([0, 1, 5], [1, 1, 4]),
    ([65534], [65535]),
    ([65535], [0, 1]),
    ([2, 65537, 65539], [3, 65535, 2]),
    ([2, 65538], [3, 0, 1]),
    ([200_000], [0, 0, 0, 200_001 - 3 * 65535]),
    ([], []),
  ],
)
def test_gaps_by_hand(indices, codes):
  made = delta.gaps(np.array(indices, np.int64))
  assert made.dtype == np.uint16 and made.tolist() == codes


def test_the_oracle_reads_what_entries_say():
  rng = np.random.default_rng(0)
  old = {
    "dense": rng.normal(size=(9, 7)).astype(np.float32),
    "sparse": np.zeros((700, 1000), np.float32),
    "same": np.ones(3, np.float32),
  }
  new = {name: tensor.copy() for name, tensor in old.items()}
  new["dense"] += 1
  new["sparse"].reshape(-1)[[3, 65538, 65539, 500_000, 699_999]] = 5
  entries = {}
  for name in old:
    entries |= delta.entries(name, old[name], new[name])
  assert set(entries) == {
    "dense.values", "dense.gaps", "sparse.values", "sparse.gaps",
  }  # fmt: skip
  got = delta_oracle.apply(old, entries)
  for name, tensor in new.items():
    np.testing.assert_array_equal(got[name], tensor)
