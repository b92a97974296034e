"""What reading and writing a model costs on several hosts.

  python -m tests.benchmarks.hosts --directory=/tmp/hosts
  python -m tests.benchmarks.hosts --directory=/tmp/hosts --code=../older

Processes with one device each, joined over loopback, load a random bfloat16
checkpoint (2.2 GB in four files) and save it again. Prints a line of JSON for
each process and for each of the two, in MB (10^6 bytes) and seconds (`cpu`:
of the processor):

  read       of the files, as far as this process touched them: what a host
             reads that shares no memory with the others
  own        the most memory of its own (RssAnon), above what it had before
  written    to files and to other processes
  share      its part of the model

then whether the copy is the same to the bit. `directory` is made and stays.
"""

import argparse
import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = {
  "architectures": ["Qwen3ForCausalLM"],
  "model_type": "qwen3",
  "hidden_act": "silu",
  "hidden_size": 1536,
  "intermediate_size": 6144,
  "num_hidden_layers": 24,
  "num_attention_heads": 16,
  "num_key_value_heads": 8,
  "head_dim": 128,
  "vocab_size": 65536,
  "max_position_embeddings": 4096,
  "rms_norm_eps": 1e-6,
  "rope_theta": 1e6,
  "initializer_range": 0.02,
  "tie_word_embeddings": False,
  "attention_bias": False,
}


def write_model(path: pathlib.Path, config: dict, n_files: int = 4) -> None:
  """A random checkpoint; its index comes last."""
  import ml_dtypes

  from atlas_jax.model import names
  from atlas_jax.model.architecture import DecoderConfig

  path.mkdir(parents=True, exist_ok=True)
  if (path / names.INDEX).exists():
    return
  draw = np.random.default_rng(0)
  table = names.tensors(DecoderConfig.from_hf(config))
  cuts = np.array_split(np.arange(len(table)), n_files)
  home = {}
  for i, cut in enumerate(cuts, 1):
    file = f"model-{i:05}-of-{n_files:05}.safetensors"
    held = {}
    for t in (table[k] for k in cut):
      bits = draw.integers(0, 1 << 16, t.shape, np.uint16) & 0xBFFF  # finite
      held[t.name] = bits.view(ml_dtypes.bfloat16)
      home[t.name] = file
    save_file(held, path / file, metadata={"format": "pt"})
  (path / "config.json").write_text(json.dumps(config))
  (path / names.INDEX).write_text(json.dumps({"weight_map": home}))


class Watch:
  """The most memory of a kind that this process had, above the first."""

  def __init__(self):
    self._first, self.most = self._now(), {}
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._look)

  def __enter__(self):
    self._thread.start()
    self._began, self._wrote = time.perf_counter(), self._io()
    self._cpu = time.process_time()
    return self

  def __exit__(self, *_):
    self.seconds = time.perf_counter() - self._began
    self.cpu = time.process_time() - self._cpu
    self.written = (self._io() - self._wrote) / 1e6
    self._done.set()
    self._thread.join()

  @staticmethod
  def _now() -> dict[str, float]:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines if line.startswith("Rss"))
    return {name: int(kb.split()[0]) * 1.024e-3 for name, kb in pairs}

  @staticmethod
  def _io() -> int:
    text = pathlib.Path("/proc/self/io").read_text()
    return int(text.split("wchar:")[1].split()[0])

  def _look(self):
    while not self._done.wait(0.005):
      for name, value in self._now().items():
        grown = value - self._first[name]
        self.most[name] = max(grown, self.most.get(name, 0))


def one(port: str, count: str, index: str, directory: pathlib.Path) -> None:
  """What one process does."""
  import jax
  import jax.numpy as jnp

  from atlas_jax import multihost, sharding
  from atlas_jax.config import MeshConfig
  from atlas_jax.model import hf

  multihost.initialize(f"127.0.0.1:{port}", int(count), int(index))

  def show(what: str, watch: Watch, **more) -> None:
    row = {"process": int(index), "what": what, **more}
    row |= {
      "seconds": watch.seconds,
      "cpu": watch.cpu,
      "own": watch.most["RssAnon"],
    }
    print(json.dumps({k: _short(v) for k, v in row.items()}), flush=True)

  with jax.set_mesh(sharding.make_mesh(MeshConfig())):
    multihost.gather(np.zeros(1))
    with Watch() as watch:
      config, model = hf.load(directory / "model", jnp.bfloat16)
      jax.block_until_ready(model)
    held = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(model)]
    read = watch.most["RssFile"]
    show("load", watch, read=read, share=sum(held) / 1e6)
    multihost.gather(np.zeros(1))
    with Watch() as watch:
      hf.save(
        directory / "copy",
        model,
        config,
        CONFIG,
        source_dir=None,
        dtype=jnp.bfloat16,
      )
      multihost.gather(np.zeros(1))
    show("save", watch, written=watch.written)


def _short(value):
  return round(value, 1) if isinstance(value, float) else value


def digests(path: pathlib.Path) -> dict[str, str]:
  """Tensor -> hash of its bytes."""
  out = {}
  for file in path.glob("*.safetensors"):
    with safe_open(file, framework="np") as stored:
      for name in stored.keys():  # noqa: SIM118 (not a dict)
        bits = stored.get_tensor(name).view(np.uint16)
        out[name] = hashlib.sha256(bits).hexdigest()
  return out


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--directory", type=pathlib.Path, required=True)
  parser.add_argument("--code", type=pathlib.Path, default=ROOT)
  parser.add_argument("--processes", type=int, default=4)
  options = parser.parse_args()
  write_model(options.directory / "model", CONFIG)
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(options.code)}
  given = [str(port), str(options.processes)]
  started = [
    subprocess.Popen(
      [sys.executable, __file__, *given, str(i), str(options.directory)],
      env=env,
    )
    for i in range(options.processes)
  ]
  if any([process.wait() for process in started]):
    sys.exit("a process failed")
  same = digests(options.directory / "model") == digests(
    options.directory / "copy"
  )
  print(json.dumps({"same": same}))


if __name__ == "__main__":
  if len(sys.argv) == 5 and sys.argv[1].isdigit():
    one(*sys.argv[1:4], pathlib.Path(sys.argv[4]))
  else:
    main()
