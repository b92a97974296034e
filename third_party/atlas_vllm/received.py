"""Files of weights that come by HTTP, and a proof that a directory is shared.

PUT /v1/atlas/files/NAME with X-Atlas-Blake3: the digest of the whole body
  200 {"path"}: the file is there; an update names it so.
  400, 413, 507 {"error"}: it is not, and has to be sent again whole.
GET /v1/atlas/nonce/HEX
  200 {"digest"}: of the file nonce-HEX under the root; null: there is none.

A file has its name only when it is whole. There are files of one version at a
time: the first of another deletes the rest, and so does an update once it is
taken, for the engines have copies then; unless files came while it ran, for
those are of the next.
"""

import asyncio
import os
import platform
import re
import secrets
from pathlib import Path

from blake3 import blake3
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from atlas_vllm import weights_file

PREFIX = "/v1/atlas"
PATHS = rf"{PREFIX}/(files/[^/]+|nonce/[^/]+)"
MOST_BYTES = 1 << 30  # of a file
_NAME = re.compile(r"(weights-[0-9]{8,18})[a-z0-9.-]{0,64}\.safetensors")
_NONCE = re.compile("[0-9a-f]{32}")
_PIECE = 1 << 20  # written and hashed beside the server's other work


class NotTaken(ValueError):
  """A file that is not taken, and the HTTP status that says so."""

  def __init__(self, status: int, text: str):
    super().__init__(text)
    self.status = status


class ReceivedFiles:
  """The files that were sent to a server, in a directory under its root.

  Attributes:
    begun: how many came so far, the one that is on its way included.
  """

  def open(self, root: Path, port: int) -> None:
    """Begins anew under a root, before the first request.

    Servers on several ports and machines may share the root.
    """
    self._root = root
    self._directory = root / f"received-{platform.node()}-{port}"
    self.begun = 0
    self.forget()

  def attach(self, app: FastAPI) -> None:
    app.add_api_route(f"{PREFIX}/files/{{name}}", self._put, methods=["PUT"])
    app.add_api_route(f"{PREFIX}/nonce/{{name}}", self._nonce, methods=["GET"])

  def forget(self, kept: str | None = None) -> None:
    """Deletes all files but those whose names begin with `kept`."""
    if self._directory.is_dir():
      for path in self._directory.iterdir():
        if kept is None or not path.name.startswith(kept):
          path.unlink(missing_ok=True)

  async def _put(self, name: str, request: Request) -> JSONResponse:
    try:
      await self._receive(name, request)
    except NotTaken as refusal:
      return JSONResponse({"error": str(refusal)}, refusal.status)
    except ClientDisconnect:
      return JSONResponse({"error": "the body broke off"}, 400)
    except OSError as error:
      return JSONResponse({"error": f"not written: {error.strerror}"}, 507)
    return JSONResponse({"path": f"{self._directory.name}/{name}"})

  async def _receive(self, name: str, request: Request) -> None:
    match = _NAME.fullmatch(name)
    promised = request.headers.get("x-atlas-blake3", "")
    if match is None:
      raise NotTaken(400, f"a file's name must match {_NAME.pattern}")
    self.begun += 1
    self._directory.mkdir(parents=True, exist_ok=True)
    self.forget(kept=match[1])
    partial = self._directory / f"{name}.{secrets.token_hex(8)}.partial"
    try:
      if await _write(request, partial) != promised:
        raise NotTaken(400, "X-Atlas-Blake3 is not the body's BLAKE3")
      os.replace(partial, self._directory / name)
    finally:
      partial.unlink(missing_ok=True)

  async def _nonce(self, name: str) -> JSONResponse:
    if not _NONCE.fullmatch(name):
      return JSONResponse({"error": "a nonce has 32 hexadecimal digits"}, 400)
    try:
      path = weights_file.inside(self._root, f"nonce-{name}")
      with path.open("rb") as f:
        digest = blake3(f.read(_PIECE)).hexdigest()
    except (weights_file.InvalidWeights, OSError):
      digest = None
    return JSONResponse({"digest": digest})


async def _write(request: Request, path: Path) -> str:
  """Writes a body to a new file; its digest."""
  hasher, piece, size = blake3(), bytearray(), 0

  def write():
    hasher.update(piece)
    f.write(piece)
    piece.clear()

  with path.open("xb") as f:
    async for part in request.stream():
      piece += part
      size += len(part)
      if size > MOST_BYTES:
        raise NotTaken(413, f"a file has at most {MOST_BYTES} bytes")
      if len(piece) >= _PIECE:
        await asyncio.to_thread(write)
    await asyncio.to_thread(write)
  return hasher.hexdigest()
