"""Where the set-up takes torch's CPU wheel from, with an index on loopback."""

import functools
import http.server
import importlib.metadata
import os
import shutil
import socket
import subprocess
import threading
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TORCH = next(
  line
  for line in (ROOT / "requirements.txt").read_text().splitlines()
  if line.startswith("torch==")
)
VERSION = TORCH.removeprefix("torch==")


class Index:
  """A package index of PEP 503; `asked` are the paths that were requested."""

  def __init__(self, root: Path):
    self.root, self.asked = root, []

  def add_torch(self):
    """Adds a wheel of the pinned release with nothing in it."""
    info = f"torch-{VERSION}.dist-info"
    name = f"torch-{VERSION}-py3-none-any.whl"
    page = self.root / "torch"
    page.mkdir()
    (page / "index.html").write_text(f'<a href="{name}">{name}</a>')
    with zipfile.ZipFile(page / name, "w") as wheel:
      wheel.writestr(
        f"{info}/METADATA",
        f"Metadata-Version: 2.1\nName: torch\nVersion: {VERSION}\n",
      )
      wheel.writestr(
        f"{info}/WHEEL",
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
      )
      wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def serve_index(tmp_path):
  """A function: name -> an Index that is served, with its url."""
  servers = []

  def serve(name: str) -> Index:
    index = Index(tmp_path / name)
    index.root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
      def log_request(self, *_):
        index.asked.append(self.path)

      def log_message(self, *_):
        pass

    server = http.server.ThreadingHTTPServer(
      ("127.0.0.1", 0), functools.partial(Handler, directory=index.root)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    servers.append(server)
    index.url = f"http://127.0.0.1:{server.server_port}"
    return index

  yield serve
  for server in servers:
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory):
  """An environment with pip alone, made once; pip is a copy of ours."""
  path = tmp_path_factory.mktemp("empty") / ".venv"
  venv.create(path, symlinks=True)
  (packages,) = path.glob("lib/python3.*/site-packages")
  ours = importlib.metadata.distribution("pip")
  for name in ("pip", f"pip-{ours.version}.dist-info"):
    shutil.copytree(ours.locate_file(name), packages / name)
  return path


@pytest.fixture
def set_up(tmp_path, empty_environment):
  """Runs the set-up of a copy, which asks for torch and a package more."""
  copy = tmp_path / "copy"
  (copy / "launchers").mkdir(parents=True)
  for name in ("pyproject.toml", "launchers/setup.sh"):
    shutil.copy(ROOT / name, copy / name)
  (copy / "requirements.txt").write_text(f"{TORCH}\nno-such-package==1\n")
  shutil.copytree(empty_environment, copy / ".venv", symlinks=True)

  def run(**environment):
    own = {
      key: value
      for key, value in os.environ.items()
      if not key.upper().startswith("PIP_")
    }
    return subprocess.run(
      ["bash", str(copy / "launchers/setup.sh")],
      capture_output=True,
      text=True,
      timeout=120,
      env={
        **own,
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_RETRIES": "0",
        "NO_PROXY": "127.0.0.1",
        **environment,
      },
    )

  run.installed = lambda: [
    path.name
    for path in copy.glob(".venv/lib/python3.*/site-packages/*.dist-info")
    if not path.name.startswith(("pip-", "setuptools-"))
  ]
  return run


def closed_port() -> str:
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return f"http://127.0.0.1:{free.getsockname()[1]}"


def asked_for(index: Index) -> set[str]:
  return {path.split("/")[1] for path in index.asked}


def test_the_index_of_torch_is_asked_where_pip_finds_no_wheel(
  set_up, serve_index
):
  pips, torchs = serve_index("pips"), serve_index("torchs")
  torchs.add_torch()
  done = set_up(PIP_INDEX_URL=pips.url, ATLAS_TORCH_INDEX=torchs.url)
  assert f"pip finds no {TORCH} by itself; asking {torchs.url}" in done.stdout
  assert set_up.installed() == [f"torch-{VERSION}.dist-info"]
  # For this one wheel: the next package is asked of pip's own index alone.
  assert "installing requirements.txt" in done.stdout
  assert asked_for(torchs) == {"torch"}
  assert asked_for(pips) == {"torch", "no-such-package"}
  assert "no-such-package" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
  "variable", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"]
)
def test_what_the_user_has_set_comes_first(set_up, serve_index, variable):
  pips, torchs = serve_index("pips"), serve_index("torchs")
  pips.add_torch()
  torchs.add_torch()
  here = str(pips.root / "torch") if variable == "PIP_FIND_LINKS" else pips.url
  environment = {"PIP_INDEX_URL": closed_port(), variable: here}
  set_up(ATLAS_TORCH_INDEX=torchs.url, **environment)
  assert set_up.installed() == [f"torch-{VERSION}.dist-info"]
  assert torchs.asked == []


def test_a_user_without_an_index_is_left_so(set_up, serve_index):
  torchs = serve_index("torchs")
  torchs.add_torch()
  done = set_up(PIP_NO_INDEX="1", ATLAS_TORCH_INDEX=torchs.url)
  assert done.returncode == 1 and torchs.asked == []
  assert set_up.installed() == []


@pytest.mark.parametrize("broken", ["empty", "closed", "silent"])
def test_the_error_says_what_to_set(set_up, serve_index, broken):
  environment = {"PIP_INDEX_URL": serve_index("pips").url}
  with socket.socket() as silent:
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    index = {
      "empty": serve_index("torchs").url,
      "closed": closed_port(),
      "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
    }[broken]
    if broken == "silent":
      environment["PIP_TIMEOUT"] = "1"
    secret = index.replace("//", "//me:secret@")
    done = set_up(ATLAS_TORCH_INDEX=secret, **environment)
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  for word in (TORCH, index, "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
    assert word in line
  assert "secret" not in done.stdout + done.stderr
  assert set_up.installed() == []


def test_no_other_host_is_named():
  files = ("launchers/setup.sh", "requirements.txt", "pyproject.toml")
  words = " ".join((ROOT / name).read_text() for name in files).split()
  found = [word for word in words if "://" in word]
  assert found == [
    "torch_index=${ATLAS_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"
  ]
