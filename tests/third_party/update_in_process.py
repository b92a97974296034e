"""Updates models, each inside one process; a program that test_update.py runs.

Full weights first; then a delta that changes some values of a few tensors, and
one that changes them back.

argv: a work directory, and kind,tied (0 or 1),dtype,ranks,kv_heads of each
model. Prints one JSON line for each. Their processes, and those of their ranks,
are forked from this one, which has imported vLLM: in one that has had an update
no engine starts. vLLM would start a rank anew, and import itself for it.
"""

import json
import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from atlas_vllm.weights_file import InvalidWeights
from safetensors.numpy import load_file
from vllm import LLM, SamplingParams
from vllm.v1.executor import multiproc_executor

from tests.serving import publications, tiny_vllm

SAMPLING = SamplingParams(
  temperature=1.0, seed=5, max_tokens=24, logprobs=0, detokenize=False
)
CHANGED = ("q_proj", "down_proj", "input_layernorm", "embed_tokens")


def open_model(path: Path, dtype: str, ranks: int) -> LLM:
  llm = LLM(
    str(path),
    dtype=dtype,
    enforce_eager=True,
    tensor_parallel_size=ranks,
    kv_cache_memory_bytes=1 << 26,
    max_model_len=256,
    max_num_seqs=8,
    generation_config="vllm",
    weight_transfer_config={"backend": "atlas"},
    worker_extension_cls="atlas_vllm.worker.WeightWorker",
  )
  llm.collective_rpc(
    "init_weight_transfer_engine",
    kwargs={"init_info": {"root": str(path.parent)}},
  )
  return llm


def sample(llm: LLM):
  outputs = llm.generate(
    [{"prompt_token_ids": [1, 7, 9, i]} for i in range(4)],
    SAMPLING,
    use_tqdm=False,
  )
  return [
    [list(o.token_ids), [next(iter(p.values())).logprob for p in o.logprobs]]
    for request in outputs
    for o in request.outputs
  ]


def llm_root(llm: LLM) -> Path:
  return Path(llm.llm_engine.model_config.model).parent


def update(llm: LLM, files, version: int, sums) -> str | None:
  """The refusal, if there is one."""
  info = {"files": files, "version": str(version), "checksums": sums}
  try:
    llm.collective_rpc("atlas_prepare", args=(info,))
  except InvalidWeights as refusal:
    return str(refusal)
  except RuntimeError as refusal:  # of another process
    return f"of a rank: {refusal}"
  # What becomes of the file from here on does not matter.
  (path,) = files
  file = llm_root(llm) / path
  file.write_bytes(file.read_bytes()[:64] + b"\xff" * 64)
  llm.collective_rpc("start_weight_update")
  llm.collective_rpc("update_weights", kwargs={"update_info": info})
  llm.collective_rpc("finish_weight_update")
  llm.reset_prefix_cache()
  return None


def main(model: str, work: Path) -> dict:
  kind, tied, dtype, ranks, kv_heads = model.split(",")
  of = {"tied": tied == "1", "kv_heads": int(kv_heads)}
  new = tiny_vllm.save_model(work / "new", kind, 1, **of)
  old = tiny_vllm.save_model(work / "old", kind, 0, **of)
  fresh = open_model(new, dtype, int(ranks))
  updated = open_model(old, dtype, int(ranks))
  before, want = sample(updated), sample(fresh)
  dtype = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
  tensors = {
    name: tensor.astype(dtype)
    for name, tensor in load_file(new / "model.safetensors").items()
  }
  rng = np.random.default_rng(0)
  mixed = dict(tensors)
  # A fused Linear, one that is not, a norm, and the embedding: a tied head.
  for name, t in tensors.items():
    if name.split(".")[-2] in CHANGED:
      mixed[name] = np.where(rng.random(t.shape) < 0.2, -t, t)

  def send(version, now, base=None):
    before = None if base is None else (version - 1, base)
    manifest = publications.write(now, work, version, before)
    return update(updated, manifest.files, version, manifest.checksums)

  found = {"early_delta": send(2, mixed, tensors)}
  found["full"] = send(1, tensors)
  found["full_is_equal"] = sample(updated) == want
  found["delta"] = send(2, mixed, tensors)
  found["delta_is_different"] = sample(updated) != want
  found["back"] = send(3, tensors, mixed)
  found["back_is_equal"] = sample(updated) == want
  # It says that nothing changes, and promises other tensors.
  found["lying_delta"] = send(4, mixed, base=mixed)
  found["still_equal"] = sample(updated) == want
  sums = publications.checksums(tensors)
  all_ranks = [sums] * int(ranks)
  found["held_by_the_updated"] = (
    updated.collective_rpc("atlas_held") == all_ranks
  )
  found["held_by_the_fresh"] = fresh.collective_rpc("atlas_held") == all_ranks
  return {"was_different": before != want, **found}


if __name__ == "__main__":
  root, *models = sys.argv[1:]
  multiproc_executor.get_mp_context = lambda: multiprocessing.get_context(
    "fork"
  )
  # A fork's first use of torch's threads makes them anew, and two first uses at
  # a time find none.
  os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
  for model in models:
    if (child := os.fork()) == 0:
      found = main(model, Path(root) / model.replace(",", "-"))
      print(json.dumps(found), flush=True)
      os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
      sys.exit(f"{model} failed")
