"""The GGUF converter runs no code that lies beside the file, and asks nothing.

The package gguf, which no environment of ours holds, is stood in for.
"""

import ast
import json
import os
import pathlib
import struct
import subprocess
import sys
import types

import pytest

from atlas_jax.files import FileError
from launchers import convert_gguf

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = """
import pathlib
pathlib.Path("OUT").touch()
from transformers import LlamaForCausalLM, PretrainedConfig
from transformers import PreTrainedTokenizerFast as Tokenizer
Config, Model = PretrainedConfig, LlamaForCausalLM
"""
AUTO_MAP = {
  "AutoConfig": "evil.Config",
  "AutoModelForCausalLM": "evil.Model",
  "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
}


GGUF_PACKAGE = """
import types
def field(text):
  return types.SimpleNamespace(parts=[text.encode()], types=[8], data=[0])
class GGUFReader:
  def __init__(self, path):
    self.fields = {"general.architecture": field("llama")}
    self.tensors = []
dequantize = None
"""


def text(value):
  return struct.pack("<Q", len(value)) + value.encode()


def gguf(path):
  """The least that is read before a tokenizer is looked for."""
  kind = text("general.architecture") + struct.pack("<I", 8) + text("llama")
  path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + kind)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
  """A directory for PYTHONPATH with what stands in for gguf."""
  folder = tmp_path_factory.mktemp("packages")
  (folder / "gguf.py").write_text(GGUF_PACKAGE)
  info = folder / "gguf-0.19.0.dist-info"
  info.mkdir()
  (info / "METADATA").write_text("Name: gguf\nVersion: 0.19.0\n")
  return folder


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, companions",
  [
    ("model.gguf", ["tokenizer_config.json", "config.json"]),
    ("-m b'$(x).gguf", ["tokenizer_config.json"]),
  ],
)
def test_code_beside_the_file_is_never_run(
  tmp_path, packages, name, companions
):
  gguf(tmp_path / name)
  (tmp_path / "evil.py").write_text(CODE.replace("OUT", str(tmp_path / "ran")))
  for file in companions:
    content = {"model_type": "evil", "tokenizer_class": "E"}
    (tmp_path / file).write_text(json.dumps(content | {"auto_map": AUTO_MAP}))
  before = sorted(tmp_path.iterdir())
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launchers.convert_gguf"),
      *(str(tmp_path / name), str(tmp_path / "out")),
    ],
    input="y\n" * 9,
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": f"{ROOT}:{packages}"},
  )
  assert done.returncode == 1
  assert sorted(tmp_path.iterdir()) == before
  assert "[y/N]" not in done.stdout + done.stderr
  errors = [s for s in done.stderr.splitlines() if s.startswith("error: ")]
  assert len(errors) == 1 and done.stderr.splitlines()[-1] == errors[0]
  assert name in errors[0] and "custom code" in errors[0]


def test_nothing_of_the_project_trusts_remote_code():
  calls = 0
  for top in ("atlas_jax", "launchers", "third_party", "configs"):
    for path in (ROOT / top).rglob("*.py"):
      for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
          continue
        called = ast.unparse(node.func)
        given = ast.unparse(node)
        assert "trust_remote_code=True" not in given, path
        if called.startswith(("Auto", "transformers.Auto")):
          calls += 1
          safe = "trust_remote_code=False" in given or "**locked" in given
          assert safe, f"{path}:{node.lineno} {called}"
  assert calls >= 3
  source = (ROOT / "launchers/convert_gguf.py").read_text()
  assert 'locked = {"trust_remote_code": False' in source


@pytest.mark.parametrize("kind", [KeyError, IndexError, struct.error])
def test_a_header_that_breaks_its_reader_is_one_line(kind, monkeypatch):
  def breaks(*_, **__):
    raise kind("at 7\nand more")

  config = types.SimpleNamespace(from_pretrained=breaks)
  stand_in = types.SimpleNamespace(AutoConfig=config)
  monkeypatch.setitem(sys.modules, "transformers", stand_in)
  with pytest.raises(FileError) as error:
    convert_gguf._check_sizes(pathlib.Path("x.gguf"))
  text = str(error.value)
  assert text.startswith("x.gguf cannot be read: ") and "\n" not in text
