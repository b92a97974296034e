"""How much must have been judged before prompts are compared."""

import pytest

from atlas_jax.online.search import comparing


@pytest.mark.parametrize(
  ("samples", "seed", "pairs", "enough"),
  [
    (8, 8, 7, True),
    (8, 8, 6, False),
    (1, 1, 1, True),
    (1, 1, 0, False),
    (40, 40, 39, True),
    (40, 40, 38, False),
    (100, 100, 98, True),
    (100, 100, 97, False),
    (100, 90, 90, True),
    (100, 89, 89, False),
  ],
)
def test_of_few_samples_one_may_lack(samples, seed, pairs, enough):
  found = comparing.lacking("candidate 1", "samples", samples, seed, pairs)
  assert (found == []) is enough
