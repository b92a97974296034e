"""Flags of vLLM that would open a door: refused in a server's extra_args."""

import pytest

from atlas_jax.config import ConfigError, default_config, resolve

REFUSED_ARGUMENTS = (
  "--trust-remote-code",
  "--trust_remote_code",
  "--trust-remote",
  "--trust",
  "--t",
  "--trust-remote-code=true",
  "--trust_remote-code=1",
  "--trust-request-chat-template",
  "--api-key",
  "--api_key",
  "--api-key=secret",
  "--api",
  "--config",
  "--config=other.yaml",
  "--conf",
  "--middleware",
  "--middleware=m.M",
  "--hf-overrides",
  "--hf_overrides.model_type=x",
  "--hf-overrides.architectures+",
  "--hf-token",
  "--host=0.0.0.0",
  "--port",
  "--uds",
  "--grpc",
  "--worker-cls",
  "--worker_extension_cls=m.M",
  "--scheduler-cls",
  "--model",
  "--model=/tmp/other",
  "--tokenizer",
  "--logits-processors",
  "--tool-parser-plugin",
  "--reasoning-parser-plugin=/tmp/x.py",
  "--io-processor-plugin",
  "--kv-transfer-config",
  "--kv-transfer-config.kv_connector_module_path=m",
  "--weight-transfer-config",
  "--additional-config",
  "--additional_config.atlas_weights_root=/",
  "--log-config-file",
  "--allowed-local-media-path=/",
  "--",
)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("argument", REFUSED_ARGUMENTS)
def test_a_flag_that_would_open_a_door_is_refused(role, argument):
  tree = default_config()
  tree.serving[role].extra_args = ("--seed", "3", argument, "x")
  with pytest.raises(ConfigError) as error:
    resolve(tree)
  text = str(error.value)
  assert f"config.serving.{role}.extra_args holds --" in text
  assert "\n" not in text and "secret" not in text


def test_other_flags_of_the_server_stay_open():
  tree = default_config()
  arguments = (
    *("--seed", "3", "--tensor-parallel-size=2", "-tp", "2"),
    *("--quantization", "fp8", "--tokenizer-mode", "slow", "--model-impl=vllm"),
    *("--enable-prefix-caching", "--max_num_batched_tokens", "4096"),
    *("--compilation-config.level", "0", "--gpu-memory-utilization", "0.5"),
    *("a trust-remote-code of a value", "host", "-1", ""),
  )
  tree.serving.student.extra_args = arguments
  assert resolve(tree).serving.student.extra_args == arguments


@pytest.mark.parametrize("argument", ["-tp", "-tp=4", "--tensor_parallel_size"])
def test_a_key_is_not_overridden_by_a_flag(argument):
  tree = default_config()
  tree.serving.student.tensor_parallel = 2
  tree.serving.student.extra_args = (argument, "4")
  with pytest.raises(ConfigError, match="tensor-parallel-size, which"):
    resolve(tree)
