"""Bytes and seconds from publish() to the first token under the new weights.

  python -m tests.benchmarks.publish --model=models/smollm2-135m --rounds=7

Each round is one real update (AdamW on float32 masters, the next tokens of
README.md, learning rate 1e-6), published twice to a real server in bfloat16:
as a delta of the round before, then in full. Prints one line of JSON for each
kind, medians over the rounds, in seconds:

  write      rounding and checksums on the device, transfer to the host,
             comparing with what the server holds, files
  check      in the server: files, and for a delta the values that it changes
  apply      in the server: pause, load, pack, resume
  verify     reading back after a full file
  token      one token from the new weights
  total      all of these and what lies between them, from publish() on
  server     check + apply + token: what the server alone needs

`ratio` is total / server. A first round warms up and is left out. A last line
has the GB/s of bfloat16 at which each side computes checksums.
"""

import argparse
import asyncio
import json
import pathlib
import statistics
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

ROWS, LENGTH = 2, 128
TEXT = pathlib.Path(__file__).parents[2] / "README.md"
SERVER = ServerConfig(
  dtype="bfloat16",
  max_model_len=512,
  max_num_seqs=8,
  kv_cache_bytes=1 << 28,
  cpu_cores="0",
)


def batches(tokens: list[int]):
  """Endless [1, ROWS, LENGTH] batches of a text's tokens."""
  size, at = ROWS * LENGTH, 0
  while True:
    part = (tokens * 2)[at : at + size]
    at = (at + size) % len(tokens)
    mask = jnp.ones(LENGTH).at[0].set(0)
    rows = [
      packing.TokenSequence(jnp.array(part[i : i + LENGTH], jnp.int32), mask)
      for i in range(0, size, LENGTH)
    ]
    batch, _ = packing.pack(rows, length=LENGTH, rows_multiple=1)
    yield packing.split_micro(batch, 1)


def updates(path: pathlib.Path, learning_rate: float):
  """(architecture, the model after 0, 1, ... updates)."""
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

  def models():
    state = step.init_state(model, tx)
    yield state.model
    for batch in batches(tokens):
      state, _ = train_step(state, batch)
      jax.block_until_ready(state)
      yield state.model

  return architecture, models()


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
    "verify": report.seconds_verify,
    "token": end - published,
    "total": end - begin,
    "server": report.seconds_check + report.seconds_apply + end - published,
  }
  return report, seconds


async def first_token(server):
  async with server.client(str, ServingConfig(retries=0)) as client:
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


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--learning_rate", type=float, default=1e-6)
  flags = parser.parse_args()

  architecture, models = updates(flags.model, flags.learning_rate)
  rows = {"delta": [], "full": []}
  with (
    tempfile.TemporaryDirectory() as workdir,
    server_lib.TeacherServer(
      SERVER, model_path=flags.model, workdir=workdir, start_timeout_s=600
    ) as server,
  ):
    # Full and delta by turns.
    sender = weight_sync.WeightSender(server, ServingConfig(full_every=2))
    model = next(models)
    measure(model, architecture, sender, server, 1)
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
  print(json.dumps(checksum_speed(model, architecture)), flush=True)


if __name__ == "__main__":
  main()
