"""Bytes and seconds from publish() to the first token under the new weights.

  python -m tests.benchmarks.publish --model=models/smollm2-135m --rounds=7

A round goes one real update on, or back (AdamW on float32 masters, tokens of
README.md, learning rate 1e-6), and publishes twice to a real server in
bfloat16: as a delta of the round before, then in full. Prints one line of JSON
for each kind, medians over the rounds, in seconds:

  write      rounding and checksums on the device, transfer to the host,
             comparing with what the server holds, files
  check      in the server: files, and for a delta the values that it changes
  apply      in the server: pause, load, pack, read back full files, resume
  token      one token from the new weights
  total      all of these and what lies between them, from publish() on
  server     check + apply + token: what the server alone needs

`ratio` is total / server. A first round warms up and is left out. A line has
the GB/s of bfloat16 at which each side computes checksums.

Then the same to 1, 2 and 4 receivers (receivers.py: our plugin without a
model), by files and by HTTP. Each line has the bytes that all receivers took,
the seconds, `to_one`, how many times those to one receiver, and the CPU seconds
of this process: with fewer cores than processes the receivers wait for them.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import torch
from atlas_vllm import checksum

from atlas_jax.config import ModelConfig, OptimizerConfig, ServingConfig
from atlas_jax.data import packing
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.model import hf
from atlas_jax.model.owned import iter_owned
from atlas_jax.server_config import ServerConfig
from atlas_jax.serving import server as server_lib
from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import Sampling
from atlas_jax.training import optimizer, step
from tests.serving import tiny_vllm

ROWS, LENGTH = 2, 128
TEXT = pathlib.Path(__file__).parents[2] / "README.md"
SERVER = ServerConfig(
  dtype="bfloat16",
  max_model_len=512,
  max_num_seqs=8,
  kv_cache_bytes=1 << 28,
  cpu_cores="0",
)


def batch(tokens: list[int]):
  """[1, ROWS, LENGTH]."""
  mask = jnp.ones(LENGTH).at[0].set(0)
  rows = [
    packing.TokenSequence(jnp.array(tokens[i : i + LENGTH], jnp.int32), mask)
    for i in range(0, len(tokens), LENGTH)
  ]
  packed, _ = packing.pack(rows, length=LENGTH, rows_multiple=1)
  return packing.split_micro(packed, 1)


def updates(path: pathlib.Path, learning_rate: float):
  """(architecture, the model after 0, 1, 0, 1, ... updates)."""
  architecture, model = hf.load(path, jnp.float32)
  tx, schedule = optimizer.make_optimizer(
    OptimizerConfig(learning_rate=learning_rate, warmup_steps=0), 1000
  )
  options = ModelConfig(compute_dtype="float32", remat="none")
  objective = step.sft_objective(architecture, options)
  train_step = step.make_train_step(
    objective, tx, schedule, skip_grad_norm=None
  )
  tokens = ChatTokenizer.from_dir(path).encode(TEXT.read_text())

  size = ROWS * LENGTH
  before = jax.tree.map(jnp.copy, model)  # a step takes its state
  state, _ = train_step(step.init_state(model, tx), batch(tokens[:size]))
  jax.block_until_ready(state)
  return architecture, itertools.cycle([before, state.model])


def measure(model, architecture, sender, server, version):
  """(report, seconds of each part) of one publish."""
  tensors = iter_owned(model, architecture, jnp.bfloat16)
  begin = time.perf_counter()
  report = sender.send(tensors, version)
  published = time.perf_counter()
  (first,) = asyncio.run(first_token(server))
  end = time.perf_counter()
  assert first.weight_version == version
  seconds = {
    "write": report.seconds_write,
    "check": report.seconds_check,
    "apply": report.seconds_apply,
    "token": end - published,
    "total": end - begin,
    "server": report.seconds_check + report.seconds_apply + end - published,
  }
  return report, seconds


async def first_token(server):
  client = server.client(str, ServingConfig(retries=0))
  async with contextlib.aclosing(client):
    return await client.generate([1, 5, 9], Sampling(1, 1.0))


def summary(kind: str, rows: list[dict]) -> dict:
  medians = {
    key: round(statistics.median(row[key] for row in rows), 4)
    for key in rows[0]
  }
  ratio = statistics.median(row["total"] / row["server"] for row in rows)
  return {
    "kind": kind,
    "rounds": len(rows),
    **medians,
    "ratio": round(ratio, 3),
  }


def checksum_speed(model, architecture) -> dict:
  """GB/s of both sides, of all tensors and of the values of a delta."""
  names = {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"}

  def seconds(call) -> float:
    call()  # compiles
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin

  def exported():
    return iter_owned(model, architecture, jnp.bfloat16)

  found = [
    box for t in exported() if t.name in names for box in t.boxes.items()
  ]
  tensors = [torch.from_numpy(box.view("int16")) for _, box in found]
  size = sum(t.nbytes for t in tensors)
  whole = sum(box.nbytes for t in exported() for box in t.boxes.values())
  where = torch.arange(0, tensors[0].numel(), 100)
  old = tensors[0].view(-1)[where]
  of_change = seconds(lambda: checksum.of_change(where, old, old + 1, 64))
  return {
    "kind": "checksum",
    "trainer_round_and_sum_gb_s": whole / 1e9 / seconds(lambda: [*exported()]),
    "server_gb_s": size
    / 1e9
    / seconds(lambda: [checksum.of_box(t) for t in tensors]),
    "server_ns_a_changed_value": of_change / len(where) * 1e9,
  }


def to_a_server(flags, architecture, models) -> None:
  """Prints what publishing to one real server takes."""
  rows = {"delta": [], "full": []}
  with (
    tempfile.TemporaryDirectory() as workdir,
    tiny_vllm.started(
      server_lib.TeacherServer(
        SERVER, model_path=flags.model, workdir=workdir, start_timeout_s=600
      )
    ) as server,
  ):
    # Full and delta by turns.
    sender = weight_sync.WeightSender(server, ServingConfig(full_every=2))
    measure(next(models), architecture, sender, server, 1)
    for index in range(1, flags.rounds + 2):
      model = next(models)
      version = 2 * index
      part, seconds = measure(model, architecture, sender, server, version)
      assert part.is_delta, "a delta was not small enough, or refused"
      report, whole = measure(model, architecture, sender, server, version + 1)
      if index > 1:
        fraction = part.bytes / report.bytes
        rows["delta"].append(
          {"bytes": part.bytes, "fraction": fraction, **seconds}
        )
        rows["full"].append({"bytes": report.bytes, "fraction": 1.0, **whole})
  for kind, measured in rows.items():
    print(json.dumps(summary(kind, measured)), flush=True)


@contextlib.contextmanager
def receivers(model: pathlib.Path, root: pathlib.Path, count: int):
  """The addresses of so many, and what there is to know of each."""
  command = [sys.executable, "-m", "tests.benchmarks.receivers"]
  process = subprocess.Popen(
    [*command, str(model), str(root), str(count)],
    **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
    env=os.environ | {"OMP_NUM_THREADS": "1"},
  )
  try:
    yield [
      ServerConfig(url=f"http://127.0.0.1:{port}", dtype="bfloat16")
      for port in process.stdout.readline().split()
    ]
  finally:
    process.stdin.close()
    process.wait()


def to_receivers(flags, architecture, models) -> None:
  """Prints what publishing to several takes, on each road."""
  rows, versions = {}, itertools.count(1)
  with (
    tempfile.TemporaryDirectory() as shared,
    tempfile.TemporaryDirectory() as own,
    receivers(flags.model, pathlib.Path(shared, "weights"), 4) as configs,
  ):

    def publish(road, count, kept):
      servers = [
        server_lib.TeacherServer(
          config,
          model_path=flags.model,
          workdir=shared if road == "files" else own,
          start_timeout_s=600,
        )
        for config in configs[:count]
      ]
      given = ServingConfig(weights=road)
      sender = weight_sync.WeightSender(servers[0], given, *servers[1:])
      for kind in ("full", "delta"):
        tensors = iter_owned(next(models), architecture, jnp.bfloat16)
        cpu, begin = time.process_time(), time.perf_counter()
        version = next(versions)
        sent = sender.send(tensors, version)
        seconds = time.perf_counter() - begin
        assert sent.is_delta == (kind == "delta")
        assert set(sender.holds.values()) == {version}
        if kept:
          rows.setdefault((kind, road, count), []).append(
            (sent.bytes * count, seconds, time.process_time() - cpu)
          )

    for index in range(flags.rounds + 1):
      for road in ("files", "http"):
        for count in (1, 2, 4):
          publish(road, count, index > 0)
  for (kind, road, count), measured in sorted(rows.items()):
    pairs = zip(measured, rows[kind, road, 1], strict=True)
    line = {"kind": kind, "road": road, "receivers": count}
    for i, key in enumerate(("bytes", "seconds", "cpu_seconds")):
      line[key] = round(statistics.median(row[i] for row in measured), 3)
    line["to_one"] = statistics.median(a[1] / b[1] for a, b in pairs)
    print(json.dumps(line), flush=True)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--learning_rate", type=float, default=1e-6)
  flags = parser.parse_args()

  architecture, models = updates(flags.model, flags.learning_rate)
  print(json.dumps(checksum_speed(next(models), architecture)), flush=True)
  to_receivers(flags, architecture, models)
  to_a_server(flags, architecture, models)


if __name__ == "__main__":
  main()
