"""How vLLM servers are started, or where they are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from atlas_jax import addresses, gpus
from atlas_jax.config_tree import (
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
  PositiveShare,
  Valid,
)

_PORT = Valid("must not be above 65535", lambda port: port < 1 << 16)
Dtype = Literal["float32", "bfloat16"]
_GPUS = Valid("must be GPUs such as 0, 4-7 or 0,2", gpus.covers)
Gpus = Annotated[str, _GPUS]
# Flags of vLLM that run code, open a door or serve another model.
_REFUSED_FLAGS = """
  additional-config allow-credentials allowed-headers allowed-local-media-path
  allowed-media-domains allowed-methods allowed-origins api-key code-revision
  config ec-manager-config ec-transfer-config generation-config grpc
  hf-config-path hf-overrides hf-token host io-processor-plugin kv-events-config
  kv-transfer-config log-config-file logging-config logits-processors
  lora-modules middleware model model-class-overrides otlp-traces-endpoint
  override-generation-config port reasoning-parser-plugin revision scheduler-cls
  served-model-name tokenizer tokenizer-revision tool-parser-plugin tool-server
  trust-remote-code trust-request-chat-template trust-request-mm-kwargs uds
  weight-transfer-config worker-cls worker-extension-cls
"""

_SHORT = {"-tp": "--tensor-parallel-size", "-dp": "--data-parallel-size"}


@dataclass(frozen=True)
class ServerConfig:
  """vLLM of a role: one server that the run spawns, or those at URLs."""

  url: str | None = None
  urls: tuple[str, ...] = ()  # of several, in place of url
  host: str = "127.0.0.1"  # the address to listen at, when spawned
  port: Annotated[NonNegativeInt, _PORT] = 0  # 0: a free one
  dtype: Dtype = "bfloat16"
  max_model_len: PositiveInt = 4096
  max_num_seqs: PositiveInt = 64
  kv_cache_bytes: PositiveInt = 1 << 30
  cpu_cores: str = ""  # CPU builds: the cores that its threads are bound to
  gpus: Gpus = ""  # of its host, when spawned: 0 or 4-7; "": as vLLM chooses
  replicas: PositiveInt = 1  # engines of a server, each with the whole model
  tensor_parallel: PositiveInt = 1  # GPUs that each engine is cut over
  # Of a GPU's memory: vLLM's --gpu-memory-utilization. None: its default.
  gpu_memory_fraction: PositiveShare | None = None
  extra_args: tuple[str, ...] = ()

  @property
  def elsewhere(self) -> tuple[str, ...]:
    """The addresses of servers that run already; none: one is spawned."""
    return self.urls or (() if self.url is None else (self.url,))

  def conflicts(self) -> Iterator[str]:
    for url in self.elsewhere:
      if problem := addresses.problem(url):
        key = "urls" if self.urls else "url"
        yield f"{key} {problem}; the servers' key is ATLAS_SERVER_KEY"
    if self.urls and (
      self.url is not None or len({*self.urls}) < len(self.urls)
    ):
      yield f"urls={self.urls} takes the place of url, and names each once"
    refused = _REFUSED_FLAGS.split()
    if self.gpu_memory_fraction is not None:
      refused.append("gpu-memory-utilization")
    if self.replicas > 1:
      refused.append("data-parallel-size")
    if self.tensor_parallel > 1:
      refused.append("tensor-parallel-size")
    for argument in self.extra_args:
      argument = _SHORT.get(argument.partition("=")[0], argument)
      # As vLLM reads it: underscores, a beginning, .KEY and =VALUE behind it.
      name = re.match(r"--([^=.]*)|", argument.replace("_", "-"))[1]
      if name is not None and any(flag.startswith(name) for flag in refused):
        yield (
          f"extra_args holds --{name}, which runs code, opens a door, serves"
          " something else or has a key of its own; take it out (any of"
          f" {', '.join(refused)})"
        )


@dataclass(frozen=True)
class ServingConfig:
  teacher: ServerConfig = ServerConfig()
  student: ServerConfig = ServerConfig()
  start_timeout_s: PositiveFloat = 600.0
  request_timeout_s: PositiveFloat = 600.0
  retries: NonNegativeInt = 3  # of one request
  restarts: NonNegativeInt = 3  # of a server that died, in one run
  max_concurrency: PositiveInt = 256
  # How weights come to servers: by the directory that they share with the run,
  # or by HTTP; auto: by HTTP where a server does not see the directory.
  weights: Literal["auto", "files", "http"] = "auto"
  # Publish only the values that changed, where the server can take that.
  publish_changes: bool = True
  full_every: PositiveInt = 50  # versions between two full files
  # Stop when mean |trainer - server| log-prob on the fixed prompt is above.
  max_logprob_gap: NonNegativeFloat = 0.1

  @property
  def by_role(self) -> dict[str, ServerConfig]:
    return {"teacher": self.teacher, "student": self.student}

  @property
  def spawned(self) -> dict[str, ServerConfig]:
    """By role, those that a run starts: they are not elsewhere."""
    return {r: one for r, one in self.by_role.items() if not one.elsewhere}
