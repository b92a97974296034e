"""How many engines a server has, and what each of them runs on."""

import pytest

from atlas_jax.server_config import ServerConfig
from atlas_jax.serving import vllm_command
from atlas_jax.serving.client import ServerError
from tests.hub_cache import LFS_POINTER


def words_of(config, tmp_path):
  return vllm_command.command(
    config,
    role="teacher",
    device="cpu",
    model_path=tmp_path,
    port=1,
    weights_root=None,
  )


def test_one_engine_has_no_flags(tmp_path):
  words, env = words_of(ServerConfig(), tmp_path)
  assert not [w for w in words if "parallel-size" in w]
  assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
  assert "VLLM_CPU_OMP_THREADS_BIND" not in env


def test_replicas_and_tensor_parallel(tmp_path):
  config = ServerConfig(replicas=2, tensor_parallel=3)
  words, env = words_of(config, tmp_path)
  assert words[words.index("--data-parallel-size") + 1] == "2"
  assert words[words.index("--tensor-parallel-size") + 1] == "3"
  assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
  assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


@pytest.mark.parametrize(
  "cores, replicas, size, binding, threads",
  [
    ("0-7", 2, 2, "0,1|2,3|4,5|6,7", "2"),
    ("0-1", 1, 2, "0|1", "1"),
    ("0-4", 2, 1, "0,1|2,3,4", "2"),
    ("3", 2, 1, "3|3", "1"),
    ("2,9", 3, 1, "2|2|9", "1"),
  ],
)
def test_workers_share_the_cores_out(cores, replicas, size, binding, threads):
  config = ServerConfig(
    cpu_cores=cores, replicas=replicas, tensor_parallel=size
  )
  _, env = vllm_command.device_settings("cpu", config)
  assert env["VLLM_CPU_OMP_THREADS_BIND"] == binding
  assert env["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "box.lan"])
def test_beyond_this_machine_a_token_is_chosen(host):
  beyond, here = ServerConfig(host=host), ServerConfig()
  with pytest.raises(ServerError, match=f"host={host} .*ATLAS_SERVER_KEY_FILE"):
    vllm_command.draw_key(here, beyond)
  first, second = (vllm_command.draw_key(here, here) for _ in range(2))
  assert len(first) == 32 and first != second
  # One that runs elsewhere is not spawned here.
  elsewhere = ServerConfig(host=host, url="http://10.0.0.1:1")
  assert len(vllm_command.draw_key(here, elsewhere)) == 32


def test_weights_that_are_a_pointer_of_git_lfs(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "consolidated.safetensors").write_text(LFS_POINTER)
  vllm_command.check_model(tmp_path, "cuda")
  (tmp_path / "model.safetensors").write_text(LFS_POINTER)
  with pytest.raises(ServerError, match=r"/model\.safetensors is a pointer of"):
    vllm_command.check_model(tmp_path, "cuda")
