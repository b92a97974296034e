"""Trainer and servers on one card: what each needs, against its share."""

import dataclasses

import pytest

from atlas_jax.config import default_config, resolve
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.preflight import compile as preflight
from atlas_jax.preflight.chips import GIB
from configs import teacher
from tests.preflight.eight_billion import QWEN3_8B

BIG = DecoderConfig.from_hf({**QWEN3_8B, "num_hidden_layers": 36})
SMALL = dataclasses.replace(BIG, n_layers=2)
MODELS = {"teacher": BIG, "student": SMALL}


def one_gpu():
  return resolve(teacher.get_config("qwen3_8b_lora_1gpu"))


def test_a_server_takes_its_weights_its_cache_and_some():
  found = preflight.beside_trainer(one_gpu(), MODELS)
  assert set(found) == {"teacher server", "student server"}
  # 8.19e9 parameters of 2 bytes, 4 GiB of cache.
  weights = found["teacher server"] - 4 * GIB - preflight.SERVER_CONTEXT
  assert weights == pytest.approx(2 * 8.19e9, rel=0.005)
  assert found["student server"] < found["teacher server"] - 10 * GIB


def test_servers_of_other_cards_take_nothing_here():
  config = resolve(teacher.get_config("qwen3_1_7b_2gpu"))
  assert preflight.beside_trainer(config, MODELS) == {}
  assert preflight.beside_trainer(resolve(default_config()), MODELS) == {}


def test_a_share_that_is_too_small_is_named():
  config, card = one_gpu(), 75 * GIB
  needs = {"trainer": 30 * GIB, "teacher server": 21 * GIB}
  assert preflight.too_small(config, needs, card) is None
  needs["trainer"] = 34 * GIB
  assert preflight.too_small(config, needs, card) == (
    "config.mesh.gpu_memory_fraction=0.45 of 75.0 GiB is less than the"
    " 34.0 GiB that the trainer takes"
  )
  needs |= {"trainer": 1, "teacher server": 22 * GIB}
  assert "serving.teacher.gpu_memory_fraction=0.29" in preflight.too_small(
    config, needs, card
  )
