"""One of the processes that test_multihost.py starts."""

import json
import sys

import jax
import jax.numpy as jnp

from atlas_jax import multihost


def main(port: str, count: str, index: str) -> None:
  multihost.initialize(f"127.0.0.1:{port}", int(count), int(index))
  rank = jax.process_index()
  out = {"count": jax.process_count(), "lead": multihost.is_lead()}
  mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
  with jax.set_mesh(mesh):  # as in a run
    secret = {"answer": [1, "é", None], "rank": rank}
    out["broadcast"] = multihost.broadcast_json(secret)
    out["long"] = len(multihost.broadcast_json("x" * (1000 if rank else 70000)))
    parts = multihost.allgather_bytes(bytes([rank + 1]) * (3 + 200 * rank))
    out["gathered"] = [[len(p), p[0], p[-1]] for p in parts]
    out["empty"] = [len(p) for p in multihost.allgather_bytes(b"")]
    multihost.barrier("here")
    out["called"] = multihost.call_on_lead(lambda: {"from": rank})

    def fail():
      raise ValueError("server gone")

    try:
      multihost.call_on_lead(fail)
    except Exception as e:
      out["error"] = [type(e).__name__, str(e)]

    def not_json():
      return object()

    try:
      multihost.call_on_lead(not_json)
    except Exception as e:
      out["not_json"] = type(e).__name__
    # The processes are still in step, and compute together.
    ones = jax.jit(lambda: jnp.ones(8, out_sharding=jax.P("fsdp")))()
    out["sum"] = float(jax.jit(jnp.sum)(ones))
  print("RESULT " + json.dumps(out), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
