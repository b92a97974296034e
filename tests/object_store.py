"""A bucket as Google's are seen, by TensorStore's client and by fsspec.

TensorStore's own client asks a server on loopback; what Orbax and we ask for by
`epath` goes through fsspec, to a file system over the same objects. As there, a
folder is but the beginning of names: it comes and goes with what is in it.
"""

import contextlib
import http.server
import io
import json
import os
import threading
import urllib.parse
import zlib
from unittest import mock

import fsspec
from etils.epath import backend
from fsspec.registry import _registry
from orbax.checkpoint._src.path import gcs_utils

OBJECTS: dict[str, bytes] = {}  # "bucket/name" -> content


class _Writing(io.BytesIO):
  def __init__(self, path: str):
    super().__init__()
    self._path = path

  def close(self):
    if not self.closed:
      OBJECTS[self._path] = self.getvalue()
    super().close()


class Bucket(fsspec.AbstractFileSystem):
  """gs://, as far as a checkpoint needs it."""

  protocol = ("gs", "gcs")
  cachable = False

  def ls(self, path, detail=True, **_):
    path, found = self._strip_protocol(path), {}
    for name, data in sorted(OBJECTS.items()):
      if name == path:
        found[name] = {"name": name, "size": len(data), "type": "file"}
      elif name.startswith(f"{path}/"):
        first, deeper, _ = name[len(path) + 1 :].partition("/")
        child = f"{path}/{first}"
        kind = "directory" if deeper else "file"
        size = 0 if deeper else len(data)
        found[child] = {"name": child, "size": size, "type": kind}
    if not found:
      raise FileNotFoundError(path)
    return list(found.values()) if detail else list(found)

  def info(self, path, **_):
    path = self._strip_protocol(path)
    there = [entry for entry in self.ls(path) if entry["name"] == path]
    return there[0] if there else {"name": path, "size": 0, "type": "directory"}

  def _open(self, path, mode="rb", **_):
    if "w" in mode:
      return _Writing(path)
    if path not in OBJECTS:
      raise FileNotFoundError(path)
    return io.BytesIO(OBJECTS[path])

  def mkdir(self, path, **_):
    pass

  def makedirs(self, path, **_):
    pass

  def _rm(self, path):
    OBJECTS.pop(path, None)


def _generation(path: str) -> int:
  """What changes with the content; 0: there is none."""
  return zlib.crc32(OBJECTS[path]) + 1 if path in OBJECTS else 0


class _Handler(http.server.BaseHTTPRequestHandler):
  """What TensorStore asks for: one object, or a list of names."""

  protocol_version = "HTTP/1.1"

  def _asked(self) -> tuple[str, dict[str, str]]:
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    bucket, _, name = url.path.partition("/b/")[2].partition("/o")
    name = query.get("name") or urllib.parse.unquote(name[1:])
    return f"{bucket}/{name}", query

  def _answer(self, status: int, data: bytes = b"", **headers) -> None:
    self.send_response(status)
    for name, value in {**headers, "content-length": len(data)}.items():
      self.send_header(name.replace("_", "-"), str(value))
    self.end_headers()
    self.wfile.write(data)

  def do_GET(self):
    path, query = self._asked()
    if path.endswith("/"):
      bucket, names = path, sorted(OBJECTS)
      start = bucket + query.get("prefix", "")
      found = [
        {"name": name.removeprefix(bucket), "size": str(len(OBJECTS[name]))}
        for name in names
        if name.startswith(start)
      ]
      self._answer(200, json.dumps({"items": found}).encode())
      return
    if (data := OBJECTS.get(path)) is None:
      self._answer(404)
      return
    total, generation = len(data), {"x_goog_generation": _generation(path)}
    if (wanted := self.headers["Range"]) is None:
      self._answer(200, data, **generation)
      return
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    begin = int(first) if first else total - int(last)
    end = min(int(last) + 1 if first and last else total, total)
    where = f"bytes {begin}-{end - 1}/{total}"
    self._answer(206, data[begin:end], content_range=where, **generation)

  def do_POST(self):
    path, query = self._asked()
    data = self.rfile.read(int(self.headers["Content-Length"]))
    wanted = query.get("ifGenerationMatch")
    if wanted not in (None, str(_generation(path))):
      self._answer(412)
      return
    OBJECTS[path] = data
    about = {"name": query["name"], "size": str(len(data))}
    about["generation"] = str(_generation(path))
    self._answer(200, json.dumps(about).encode())

  def do_DELETE(self):
    path, _ = self._asked()
    self._answer(200 if OBJECTS.pop(path, None) is not None else 404)

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def served():
  """Inside, gs:// is this store, which was empty at first."""
  OBJECTS.clear()
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  server.daemon_threads = True
  threading.Thread(target=server.serve_forever, daemon=True).start()
  environment = {
    "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{server.server_port}",
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
  }
  found = backend.fsspec_backend._get_filesystem  # keeps what it found
  found.cache_clear()

  def no(_):
    return False

  try:
    with (
      mock.patch.dict(os.environ, environment),
      # Orbax asks google-cloud-storage, which only gcsfs brings.
      mock.patch.object(gcs_utils, "is_hierarchical_namespace_enabled", no),
    ):
      fsspec.register_implementation("gcs", Bucket, clobber=True)
      yield
  finally:
    _registry.pop("gcs")  # else its own class is not looked for
    found.cache_clear()
    server.shutdown()
    server.server_close()
