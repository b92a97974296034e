"""Publishing deltas to a real vLLM server, next to a student started fresh."""

import numpy as np
import pytest

from atlas_jax.config import ServingConfig
from atlas_jax.serving import weight_sync
from tests.serving.pair import held, publish, said, sample, weights
from tests.serving.publications import checksums, owned

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_a_chain_of_deltas_is_equal_to_a_fresh_start(vllm_servers):
  teacher, fresh = vllm_servers.teacher, sample(vllm_servers.student)
  rng = np.random.default_rng(0)
  masks = {k: rng.random(t.shape) for k, t in weights(1).items()}

  def near(fraction):
    """weights(1) with about `fraction` of its values from weights(0)."""
    return {
      k: np.where(masks[k] < fraction, weights(0)[k], t)
      for k, t in weights(1).items()
    }

  sender = weight_sync.WeightSender(
    teacher, ServingConfig(request_timeout_s=60)
  )
  full = sender.send(owned(near(0.1)), 20)
  first = sender.send(owned(near(0.05)), 21)
  between = sample(teacher)
  last = sender.send(owned(weights(1)), 22)
  new = sample(teacher)
  assert [r.is_delta for r in (full, first, last)] == [False, True, True]
  assert max(first.bytes, last.bytes) < 0.15 * full.bytes
  assert said(between) != said(fresh) and said(new) == said(fresh)
  assert {c.weight_version for c in new} == {22}
  assert held(teacher) == {
    "version": "22",
    "checksums": checksums(weights(1)),
  }
  # Someone else publishes: our next delta is refused, and all is sent.
  publish(weights(0), vllm_servers, 23)
  report = sender.send(owned(near(0.05)), 24)
  assert report.is_delta is False and report.bytes == full.bytes
  assert said(sample(teacher)) == said(between)
  publish(weights(0), vllm_servers, 25)  # as the server started
