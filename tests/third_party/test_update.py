"""A model updated in place equals one loaded fresh, bit for bit."""

import json
import os

import pytest

from atlas_jax.server_config import ServerConfig
from atlas_jax.serving import vllm_command
from tests import forked

PROGRAM = "tests.third_party.update_in_process"
# Kind, whether the head is tied, dtype, ranks, KV heads. Two ranks have one KV
# head each, or both have the only one.
MODELS = (
  *("qwen2,0,bfloat16,2,2", "llama,1,float32,2,1"),
  *("qwen2,0,bfloat16,1,1", "qwen3,1,bfloat16,1,1", "llama,0,float32,1,2"),
)


@pytest.fixture(scope="module")
def found_of(tmp_path_factory):
  """What was found of each model."""
  config = ServerConfig(tensor_parallel=2)  # leaves the threads unbound
  _, env = vllm_command.device_settings("cpu", config)
  env |= {"VLLM_PLUGINS": "atlas_weights", "HF_HUB_OFFLINE": "1"}
  done = forked.run(
    *(PROGRAM, tmp_path_factory.mktemp("update"), *MODELS),
    env={**os.environ, **env},
    servers=True,
    timeout=500,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  lines = [x for x in done.stdout.splitlines() if x.startswith('{"was_')]
  return dict(zip(MODELS, map(json.loads, lines), strict=True))


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_update_is_bit_exact(model, found_of):
  found = found_of[model]
  early, lying = found.pop("early_delta"), found.pop("lying_delta")
  assert "delta of version 1, and the server has had no update" in early
  assert "differ from their checksums: " in lying
  assert found == {
    "was_different": True,
    "full": None,
    "full_is_equal": True,
    "delta": None,
    "delta_is_different": True,
    "back": None,
    "back_is_equal": True,
    "still_equal": True,
    "held_by_the_updated": True,
    "held_by_the_fresh": True,
  }
