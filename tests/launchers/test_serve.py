"""launchers.serve, with servers that run already."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Role(BaseHTTPRequestHandler):
  """The paths that both roles have, and the teacher's alone."""

  paths = ("/health", "/inference/v1/generate")

  def do_GET(self):
    self.send_response(200 if self.path in self.paths else 404)
    self.end_headers()

  def log_message(self, *_):
    pass


class Teacher(Role):
  paths = (*Role.paths, "/v1/atlas/weights")


@pytest.mark.parametrize("given", ["k0k0k0", ""])
def test_only_a_key_that_was_drawn_is_printed(given, repo_root, tmp_path):
  servers = [ThreadingHTTPServer(("127.0.0.1", 0), r) for r in (Teacher, Role)]
  for server in servers:
    threading.Thread(target=server.serve_forever).start()
  urls = [f"http://127.0.0.1:{server.server_port}" for server in servers]
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "launchers.serve"),
      *("--config=configs/quickstart.py", f"--workdir={tmp_path}"),
      f"--config.serving.teacher.url={urls[0]}",
      f"--config.serving.student.url={urls[1]}",
    ],
    cwd=repo_root,
    env={**os.environ, "ATLAS_SERVER_KEY": given},
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  lines = []
  try:
    for line in process.stdout:
      lines.append(line)
      if "student.url" in line:
        break
  finally:
    process.kill()
    process.wait(30)
    process.stdout.close()
    for server in servers:
      server.shutdown()
      server.server_close()
  assert lines[-2:] == [
    f"--config.serving.teacher.url={urls[0]}\n",
    f"--config.serving.student.url={urls[1]}\n",
  ]
  keys = [line for line in lines if "ATLAS_SERVER_KEY=" in line]
  assert len(keys) == (0 if given else 1)
  assert "k0k0k0" not in "".join(lines)
