"""Operations and pairs of a batch, counted by hand."""

import numpy as np
import pytest

from atlas_jax.config import EpisodeConfig, GrpoConfig, RunConfig, SftConfig
from atlas_jax.data import packing
from atlas_jax.preflight import work
from tests.model import dense_attention
from tests.training import tiny


def test_pairs_are_those_of_the_mask():
  batch, _ = packing.pack(
    tiny.groups() + tiny.sequences(),
    length=24,
    rows_multiple=2,
    share_prompts=True,
  )
  mask = dense_attention.visible(
    batch.segment_ids, batch.sequence_ids, batch.positions
  )
  assert work.of_batch(batch).pairs == mask.sum() > 1000


def test_operations_of_a_forward_pass_by_hand():
  a = tiny.ARCHITECTURE  # 2 layers, D 32, F 64, 4 + 2 heads of 8, V 48
  layer = 32 * (4 * 8) * 2 + 32 * (2 * 8) * 2 + 3 * 32 * 64
  assert work.layer_weights(a) == 2 * layer
  batch = work.Work(rows=2, row_length=16, tokens=20, scored=5, pairs=70)
  expected = 2 * 2 * layer * 20 + 2 * 48 * 32 * 5 + 4 * 2 * 4 * 8 * 70
  assert work.model_flops(a, batch) == 3 * expected
  padded = expected + 2 * 2 * layer * 12
  head, scores = 2 * 48 * 32 * 5, 2 * 2 * 4 * 8 * 70
  again = padded - head
  for kind, remat, done in (
    ("publish", "none", 0),
    ("score", "full", padded),
    ("prepare", "none", padded),
    ("train", "none", 3 * padded + head + scores),
    ("train", "full", 3 * padded + head + scores + again),
  ):
    assert work.done_flops(kind, a, batch, remat) == done


def test_operations_of_a_step_from_its_config_by_hand():
  config = RunConfig(
    episode=EpisodeConfig(max_teaching_tokens=3),
    grpo=GrpoConfig(problems_per_step=1, group_size=2, row_length=16),
  )
  batch = work.largest_batch(config, config.grpo, 4)
  # Three tokens of the prompt are shared; its last one leads both branches.
  tokens, padded, scored = 3 + 2 * 4, 16, 2 * 3
  pairs = (1 + 2 + 3) + 2 * (4 * 3 + 1 + 2 + 3 + 4)
  # q, k, v, o, then gate, up, down, of each of 2 layers.
  weights = 2 * (1024 + 512 + 512 + 1024 + 3 * 2048)
  head = 2 * 48 * 32 * scored
  seen = 2 * 4 * (2 * 8 + 2 * 8) * pairs  # layers, heads, q k and p v
  forward = 2 * weights * tokens + head + seen
  assert forward == 405_504 + 18_432 + 12_800
  assert work.model_flops(tiny.ARCHITECTURE, batch) == 3 * forward == 1_310_208
  # Logits and scores (half of `seen`) are computed again, layers too.
  layers = 2 * weights * padded + seen
  done = 3 * (layers + head) + head + seen // 2 + layers
  assert work.done_flops("train", tiny.ARCHITECTURE, batch, "full") == done
  assert done == 2_490_624


def test_six_operations_a_weight_and_token():
  """6ND of Qwen3-8B, whose layers have 6.95e9 weights."""
  from atlas_jax.model.architecture import DecoderConfig
  from tests.preflight import eight_billion

  a = DecoderConfig.from_hf({**eight_billion.QWEN3_8B, "num_hidden_layers": 36})
  assert work.layer_weights(a) == 36 * (
    4096 * (32 + 8 + 8 + 32) * 128 + 3 * 4096 * 12288
  )
  batch = work.Work(rows=1, row_length=2048, tokens=2048, scored=0, pairs=0)
  assert work.model_flops(a, batch) == 6 * work.layer_weights(a) * 2048


def test_the_largest_batch_is_packed_as_a_run_packs():
  config = RunConfig(
    episode=EpisodeConfig(max_teaching_tokens=100),
    grpo=GrpoConfig(problems_per_step=2, group_size=3, row_length=350),
    sft=SftConfig(batch_rows=4, row_length=64),
  )
  found = work.largest_batch(config, config.grpo, 40)
  # A prompt but its last token, and three branches with it: 39 + 3 * 101.
  assert (found.rows, found.tokens) == (2, 2 * (39 + 3 * 101))
  assert found.scored == 2 * 3 * 100
  found = work.largest_batch(config, config.sft, 1024)
  assert (found.rows, found.tokens, found.scored) == (4, 4 * 64, 4 * 32)


def test_pairs_of_padding_are_none():
  batch, _ = packing.pack(
    [packing.TokenSequence(np.arange(3), np.array([0, 1, 1]))],
    length=8,
    rows_multiple=2,
  )
  assert work.of_batch(batch) == work.Work(2, 8, 3, 2, 6)


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_only_full_recomputation_is_counted(remat):
  batch = work.Work(1, 8, 8, 4, 36)
  a = tiny.ARCHITECTURE
  full = work.done_flops("train", a, batch, "full")
  assert work.done_flops("train", a, batch, remat) < full
