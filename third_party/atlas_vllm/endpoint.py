"""Paths of the API server: take new weights, say what is held.

POST /v1/atlas/update {"files", "version", "checksums", "restart"}
  200 {"version", "seconds_check", "seconds_apply"}: the new weights are in.
  400 {"error"}: the files are refused; the old weights serve on, unpaused.
  409 {"error"}: another update is under way.
GET /v1/atlas/weights
  200 {"version", "checksums"}: of what the model really holds.
Files may come by HTTP as well: received.py.

The whole sequence runs in a task of the server's own, so that a client which
goes away in the middle cannot leave the server paused.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from vllm.distributed.weight_transfer.base import (
  WeightTransferInitRequest,
  WeightTransferUpdateRequest,
)
from vllm.v1.engine.exceptions import EngineDeadError

from atlas_vllm.plugin import BACKEND
from atlas_vllm.received import PREFIX, ReceivedFiles
from atlas_vllm.weights_file import one_line

_ROOT_KEY = "atlas_weights_root"  # in --additional-config
_MOST_BYTES = 16 << 20  # of a body: the checksums of 100,000 tensors
_MOST_FILES = 10_000
_LONGEST_END_S = 5


class Update(BaseModel):
  """The body of an update; README.md says what each field means."""

  model_config = ConfigDict(extra="forbid", strict=True)

  files: dict[Annotated[str, Field(min_length=1, max_length=4096)], str] = (
    Field(min_length=1, max_length=_MOST_FILES)
  )
  version: str = Field(pattern="^(0|[1-9][0-9]{0,17})$")  # [0-9]: ASCII
  checksums: dict[str, str]
  restart: bool = False


class AtlasUpdate:
  """vLLM's EndpointPlugin; one instance in the API server."""

  name = "atlas_update"
  required_tasks = ("generate",)

  def __init__(self):
    self._engine, self._received = None, ReceivedFiles()
    self._task: asyncio.Task | None = None  # the last update

  def attach_router(self, app: FastAPI) -> None:
    app.add_api_route(f"{PREFIX}/update", self._post, methods=["POST"])
    app.add_api_route(f"{PREFIX}/weights", self._get, methods=["GET"])
    self._received.attach(app)

  async def init_state(self, engine_client, state, args) -> None:
    """Gives the engine its root directory, before the first request.

    Raises:
      ValueError: a flag is missing; the server does not start.
    """
    config = engine_client.vllm_config
    transfer = config.weight_transfer_config
    if transfer is None or transfer.backend != BACKEND:
      raise ValueError(
        f'atlas_update needs --weight-transfer-config {{"backend":'
        f' "{BACKEND}"}}'
      )
    if _ROOT_KEY not in config.additional_config:
      raise ValueError(
        f'atlas_update needs --additional-config {{"{_ROOT_KEY}": DIRECTORY}}'
      )
    root = config.additional_config[_ROOT_KEY]
    self._received.open(Path(root), args.port)
    await engine_client.init_weight_transfer_engine(
      WeightTransferInitRequest(init_info={"root": root})
    )
    self._engine = engine_client

  async def _post(self, request: Request) -> JSONResponse:
    try:
      update = await _read(request)
    except ValueError as error:
      text = " ".join(str(error).split())
      return _answer(400, error=one_line(f"not a valid update: {text}"))
    if self._is_busy():
      return _answer(409, error="another update is under way")
    self._task = asyncio.create_task(self._update(update))
    return await asyncio.shield(self._task)

  def _is_busy(self) -> bool:
    return self._task is not None and not self._task.done()

  async def _update(self, update: Update) -> JSONResponse:
    info = update.model_dump(exclude_defaults=True)
    begin, begun = time.perf_counter(), self._received.begun
    try:
      await self._engine.collective_rpc("atlas_prepare", args=(info,))
    except EngineDeadError:
      raise
    except Exception as refusal:
      # Of any engine; vLLM leaves no type but its text. Nothing has changed,
      # but other engines may hold copies of the files.
      with contextlib.suppress(Exception):
        await self._engine.collective_rpc("atlas_forget")
      return _answer(400, error=one_line(str(refusal)))
    checked = time.perf_counter()
    try:
      # Requests under way end on the old weights; later ones wait. What the
      # old weights left in the cache goes.
      await self._engine.pause_generation(mode="wait", clear_cache=True)
      await self._engine.start_weight_update()
      await self._engine.update_weights(
        WeightTransferUpdateRequest(update_info=info)
      )
      await self._engine.finish_weight_update(update.version)
      await self._engine.resume_generation()
    except Exception:
      # Half old and half new weights would answer as if all were well.
      logging.exception("a checked update failed: this server ends now")
      os.kill(os.getpid(), signal.SIGTERM)
      # Requests that wait behind the pause could hold up that end for ever.
      asyncio.get_running_loop().call_later(_LONGEST_END_S, os._exit, 1)
      return _answer(500, error="the update failed and the server ends")
    done = time.perf_counter()
    logging.info("weights %s in use", update.version)
    if begun == self._received.begun:  # else files of the next are there
      with contextlib.suppress(OSError):  # the next update tries again
        self._received.forget()
    return _answer(
      200,
      version=update.version,
      seconds_check=checked - begin,
      seconds_apply=done - checked,
    )

  async def _get(self) -> JSONResponse:
    if self._is_busy():
      return _answer(409, error="an update is under way")
    version = await self._engine.get_weight_version()
    held = await self._engine.collective_rpc("atlas_held", args=(version,))
    return _answer(200, version=version, checksums=held[0])


async def _read(request: Request) -> Update:
  """The body of a request; ValueError if it is no update."""
  body = bytearray()
  async for part in request.stream():
    body += part
    if len(body) > _MOST_BYTES:
      raise ValueError(f"the body has more than {_MOST_BYTES} bytes")
  return Update.model_validate_json(bytes(body))


def _answer(status: int, **content) -> JSONResponse:
  return JSONResponse(content, status_code=status)


def register() -> AtlasUpdate:
  """The entry point that vLLM calls in its API server."""
  return AtlasUpdate()
