"""Servers that answer as a stranger may: redirects, bombs, bodies without end.

with Hostile(redirect(302, thief.url)) as server, Hostile() as thief: ...
"""

import http.server
import itertools
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

REDIRECTS = (301, 302, 303, 307, 308)
# What a server sends at most in answer to one request; more than any bound.
_MOST = 64 << 20


@dataclass
class Answer:
  """One answer; parts are sent until the client has gone.

  status 0: nothing but the parts is sent, HTTP or not.
  """

  status: int = 200
  headers: dict[str, str] = field(default_factory=dict)
  parts: Iterable[bytes] = ()


def redirect(status: int, url: str) -> Callable:
  """Every request is sent on to `url`, with its path."""
  return lambda request: Answer(status, {"Location": url + request.path})


def endless(status: int = 200, part: bytes = b" " * 65536) -> Callable:
  """A body of which there is always more."""
  return lambda request: Answer(
    status,
    {"Content-Type": "application/json"},
    itertools.repeat(part, _MOST // len(part)),
  )


def bomb(status: int = 200, size: int = _MOST) -> Callable:
  """A small body that inflates to `size` bytes."""
  deflate = zlib.compressobj(wbits=31)
  block = b" " * (1 << 20)
  small = b"".join(deflate.compress(block) for _ in range(size >> 20))
  small += deflate.flush()
  headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
  return lambda request: Answer(status, headers, [small])


def breaks(data: bytes) -> Callable:
  """These bytes, and the end of the connection."""
  return lambda request: Answer(0, parts=[data])


def never_a_head(part: bytes, pause_s: float = 0.0) -> Callable:
  """The head of an answer goes on, and never comes to its end."""
  parts = (time.sleep(pause_s) or part for _ in range(_MOST // len(part)))
  return lambda request: Answer(0, parts=parts)


def no_http(key: str) -> dict[str, bytes]:
  """Answers that HTTP does not know, with a key where errors repeat it."""
  ok, sent = b"HTTP/1.1 200 OK\r\n", key.encode()
  chunked = ok + b"Transfer-Encoding: chunked\r\n\r\n"
  return {
    "another protocol": b"SSH-2.0 " + sent + b"\r\n\r\n",
    "status": b"HTTP/1.1 " + sent + b" OK\r\n\r\n",
    "header name": ok + b"X\x01" + sent + b": 1\r\n\r\n",
    # Of a long line a library shows the first 100 bytes.
    "half": ok + b"X: " + b"x" * 88 + sent + b"y" * 9000 + b"\r\n\r\n",
    "length": ok + b"Content-Length: " + sent + b"\r\n\r\n",
    "size of a chunk": chunked + sent + b"\r\n",
    "no end of the head": ok + b"X: " + sent + b"\r\n",
    "no end of the body": ok + b"Content-Length: 99\r\n\r\n" + sent,
  }


def said(value, status: int = 200) -> Callable:
  """A JSON value."""
  headers = {"Content-Type": "application/json"}
  return lambda request: Answer(status, headers, [json.dumps(value).encode()])


class Hostile:
  """A server on loopback; `requests` are all that came, `sent` bytes went.

  Each request is (method, path, headers, body), also in `text` as one string.
  """

  def __init__(self, answer: Callable | None = None):
    self.requests: list[tuple] = []
    self.sent = 0
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = dict(self.headers)
        outer.requests.append((self.command, self.path, headers, body))
        reply = (answer or said({}))(self)
        if reply.status:
          self.send_response(reply.status)
          for name, value in reply.headers.items():
            self.send_header(name, value)
          self.send_header("Connection", "close")
          self.end_headers()
        self.close_connection = True
        try:
          for part in reply.parts:
            self.wfile.write(part)
            outer.sent += len(part)
        except OSError:
          pass  # the client has gone

      do_GET = do_POST = do_PUT = handle_request

      def log_message(self, *_):
        pass

    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._server.daemon_threads = True
    self.url = f"http://127.0.0.1:{self._server.server_port}"

  @property
  def text(self) -> str:
    return repr(self.requests)

  def __enter__(self):
    threading.Thread(
      target=self._server.serve_forever, args=(0.01,), daemon=True
    ).start()
    return self

  def __exit__(self, *exc):
    self._server.shutdown()
    self._server.server_close()
