"""Servers that take weights and run no model; publish.py starts them.

  python -m tests.benchmarks.receivers MODEL ROOT COUNT

Each is a process with third_party/atlas_vllm's endpoint, its files that come by
HTTP and its weight transfer engine, over the tensors of MODEL in bfloat16; what
vLLM does (a pause, packing) is left out. Prints the ports, and ends with its
standard input.
"""

import asyncio
import os
import pathlib
import signal
import socket
import sys
import types

import torch
import uvicorn
from atlas_vllm import endpoint, engine
from fastapi import FastAPI


class Model(torch.nn.Module):
  """All tensors of a checkpoint, each by its name."""

  def __init__(self, shapes):
    super().__init__()
    self.held = {
      name: torch.zeros(shape, dtype=torch.bfloat16)
      for name, shape in shapes.items()
    }

  def load_weights(self, weights):
    for name, tensor in weights:
      self.held[name].copy_(tensor)


class Engine:
  """What the endpoint asks of vLLM's engine client."""

  def __init__(self, model: pathlib.Path, root: pathlib.Path):
    own = engine.FileWeightTransferEngine.__new__(
      engine.FileWeightTransferEngine
    )
    own.model = Model(engine._checkpoint_shapes(model))
    own.device = torch.device("cpu")
    own.model_config = types.SimpleNamespace(dtype=torch.bfloat16, model=model)
    parallel = types.SimpleNamespace(pipeline_parallel_size=1)
    own.vllm_config = types.SimpleNamespace(
      quant_config=None, parallel_config=parallel
    )
    own._prepared = own._loaded = own._held = None
    self._own = own
    self.vllm_config = types.SimpleNamespace(
      weight_transfer_config=types.SimpleNamespace(backend="atlas"),
      additional_config={"atlas_weights_root": str(root)},
    )

  async def init_weight_transfer_engine(self, request):
    info = engine.InitInfo(**request.init_info)
    self._own.init_transfer_engine(info)

  async def collective_rpc(self, method, args=()):
    call = getattr(self._own, method.removeprefix("atlas_"))
    return [await asyncio.to_thread(call, *args)]

  async def update_weights(self, request):
    await asyncio.to_thread(self._own.update_weights, request.update_info)

  async def finish_weight_update(self, version):
    await asyncio.to_thread(self._own.finish_weight_update)

  async def get_weight_version(self):
    return self._own._held.version

  async def pause_generation(self, **_):
    pass

  start_weight_update = resume_generation = pause_generation


async def serve(model: pathlib.Path, root: pathlib.Path, taken: socket.socket):
  plugin, app = endpoint.register(), FastAPI()
  app.get("/health")(lambda: {})
  plugin.attach_router(app)
  args = types.SimpleNamespace(port=taken.getsockname()[1])
  await plugin.init_state(Engine(model, root), app.state, args)
  config = uvicorn.Config(app, log_level="warning")
  await uvicorn.Server(config).serve(sockets=[taken])


def main(model: str, root: str, count: str) -> None:
  taken, children = [], []
  for _ in range(int(count)):
    taken.append(socket.create_server(("127.0.0.1", 0)))
  for one in taken:  # each has what was imported once
    child = os.fork()
    if not child:
      asyncio.run(serve(pathlib.Path(model), pathlib.Path(root), one))
      os._exit(0)
    children.append(child)
  print(*(one.getsockname()[1] for one in taken), flush=True)
  try:
    sys.stdin.read()
  finally:
    for child in children:
      os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
  main(*sys.argv[1:])
