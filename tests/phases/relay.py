"""A port in front of a server, so that a test can take the server away."""

import contextlib
import socket
import threading
import urllib.parse


class Relay:
  """Passes bytes on, both ways, until it is closed. A context manager."""

  def __init__(self, url: str):
    parts = urllib.parse.urlsplit(url)
    self._target = (parts.hostname, parts.port)
    self._listener = socket.create_server(("127.0.0.1", 0))
    self._open = [self._listener]
    self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
    threading.Thread(target=self._accept, daemon=True).start()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def close(self) -> None:
    """Ends every connection, and takes no more."""
    for one in self._open:
      with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
      one.close()

  def _accept(self) -> None:
    with contextlib.suppress(OSError):  # closed
      while True:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        self._open += [client, server]
        for pair in ((client, server), (server, client)):
          threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
  with contextlib.suppress(OSError):
    while data := source.recv(1 << 16):
      target.sendall(data)
  with contextlib.suppress(OSError):
    target.shutdown(socket.SHUT_RDWR)
