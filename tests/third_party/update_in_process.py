"""Updates a model inside one process; a program that test_update.py runs.

argv: kind, tied (0 or 1), dtype, work directory. Prints one JSON line.
"""

import json
import sys
from pathlib import Path

import torch
from atlas_vllm import weights_file
from safetensors.torch import load_file, save_file
from vllm import LLM, SamplingParams

from tests.serving import tiny_vllm

SAMPLING = SamplingParams(
  temperature=1.0, seed=5, max_tokens=24, logprobs=0, detokenize=False
)


def open_model(path: Path, dtype: str) -> LLM:
  llm = LLM(
    str(path),
    dtype=dtype,
    enforce_eager=True,
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


def main(kind: str, tied: bool, dtype: str, work: Path) -> dict:
  new = tiny_vllm.save_model(work / "new", kind, 1, tied=tied)
  old = tiny_vllm.save_model(work / "old", kind, 0, tied=tied)
  fresh = open_model(new, dtype)
  updated = open_model(old, dtype)
  before, want = sample(updated), sample(fresh)
  tensors = {
    name: tensor.to(getattr(torch, dtype))
    for name, tensor in load_file(new / "model.safetensors").items()
  }
  save_file(tensors, work / "w.safetensors")
  sums = weights_file.checksums(tensors)
  info = {"path": "w.safetensors", "checksums": sums}
  refusal = updated.collective_rpc("atlas_prepare", args=(info,))[0]
  updated.collective_rpc("start_weight_update")
  updated.collective_rpc("update_weights", kwargs={"update_info": info})
  updated.collective_rpc("finish_weight_update")
  updated.reset_prefix_cache()
  return {
    "refusal": refusal,
    "was_different": before != want,
    "is_equal": sample(updated) == want,
    "held_by_the_updated": updated.collective_rpc("atlas_held")[0] == sums,
    "held_by_the_fresh": fresh.collective_rpc("atlas_held")[0] == sums,
  }


if __name__ == "__main__":
  kind, tied, dtype, work = sys.argv[1:]
  print(json.dumps(main(kind, tied == "1", dtype, Path(work))))
