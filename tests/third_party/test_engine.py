"""The engine's order of an update, with a model of two tensors."""

import os
import types

import blake3
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("vllm")

from atlas_vllm import checksum, destinations, weights_file
from atlas_vllm.engine import FileWeightTransferEngine
from atlas_vllm.weights_file import InvalidWeights

from atlas_jax.serving import delta as sender

SHAPES = {"a": (30, 40), "b": (4,)}


class Model(torch.nn.Module):
  def __init__(self):
    super().__init__()
    for name, shape in SHAPES.items():
      self.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))

  def load_weights(self, weights):
    for name, tensor in weights:
      self.get_parameter(name).data.copy_(tensor)


@pytest.fixture
def engine(tmp_path):
  engine = FileWeightTransferEngine.__new__(FileWeightTransferEngine)
  engine.model, engine.device = Model(), torch.device("cpu")
  engine.model_config = types.SimpleNamespace(dtype=torch.float32)
  engine._root, engine._shapes = tmp_path, SHAPES
  engine._places = destinations.find(engine.model, SHAPES)
  engine._prepared = engine._loaded = engine._held = None
  return engine


def tensors(seed):
  generator = torch.Generator().manual_seed(seed)
  return {
    name: torch.randn(shape, generator=generator)
    for name, shape in SHAPES.items()
  }


def write(engine, version, now, base=None):
  """The body of an update; `base` is (version, tensors) of a delta."""
  path, metadata, entries = engine._root / f"{version}.st", None, now
  if base is not None:
    old = {k: t.numpy() for k, t in base[1].items()}
    new = {k: t.numpy() for k, t in now.items()}
    entries = [e for k in new for e in sender.entries(k, old[k], new[k])]
    entries = {k: torch.from_numpy(v) for k, v in entries}
    metadata = {"base": str(base[0]), "version": str(version)}
    metadata["format"] = sender.FORMAT
  save_file(entries, path, metadata=metadata)
  sums = {k: checksum.text(checksum.of_box(t)) for k, t in now.items()}
  files = {path.name: blake3.blake3(path.read_bytes()).hexdigest()}
  return {"files": files, "version": str(version), "checksums": sums}


def load(engine, info):
  engine.prepare(info)
  finish(engine, info)


def finish(engine, info):
  engine.start_weight_update()
  engine.update_weights(info)
  engine.finish_weight_update()


def overwrite(path):
  """In place, with another file of the same shapes, as a rogue would."""
  other = path.with_suffix(".other")
  save_file(tensors(99), other)
  with path.open("r+b") as f:
    f.write(other.read_bytes()[: path.stat().st_size])


DEEDS = {
  "overwritten": overwrite,
  "cut short": lambda path: os.truncate(path, 100),
  "emptied": lambda path: os.truncate(path, 0),
  "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("kind", ["full", "delta"])
def test_what_was_checked_is_loaded(engine, kind, deed):
  old, new = tensors(0), tensors(1)
  load(engine, write(engine, 1, old))
  info = write(engine, 2, new, (1, old) if kind == "delta" else None)
  engine.prepare(info)
  (path,) = info["files"]
  DEEDS[deed](engine._root / path)
  finish(engine, info)
  assert engine.held() == info["checksums"]
  for name, tensor in new.items():
    assert torch.equal(engine.model.get_parameter(name), tensor)


def test_a_file_cut_short_while_it_is_copied(engine, monkeypatch):
  load(engine, write(engine, 1, tensors(0)))
  info = write(engine, 2, tensors(1))
  (name,) = info["files"]
  path, pread = engine._root / name, os.pread

  def cut_before_the_second(fd, size, at):
    if at:
      os.truncate(path, at)
    return pread(fd, size, at)

  monkeypatch.setattr(weights_file, "_CHUNK", path.stat().st_size - 100)
  monkeypatch.setattr(weights_file.os, "pread", cut_before_the_second)
  with pytest.raises(InvalidWeights, match="has another BLAKE3 than announced"):
    engine.prepare(info)


def test_versions_do_not_go_back(engine):
  seven = write(engine, 7, tensors(7))
  load(engine, seven)
  load(engine, seven)  # again, the same
  with pytest.raises(
    InvalidWeights, match="version 7, which 6 does not follow"
  ):
    engine.prepare(write(engine, 6, tensors(7)))
  # 10 is after 7, though not as a text; another 7 is not.
  with pytest.raises(
    InvalidWeights, match="version 7, which 7 does not follow"
  ):
    engine.prepare(write(engine, 7, tensors(8)))
  load(engine, write(engine, 10, tensors(8)))
  with pytest.raises(InvalidWeights, match="does not say restart"):
    engine.prepare(seven | {"restart": False})
  seven = write(engine, 7, tensors(7)) | {"restart": True}
  load(engine, seven)
  assert engine.held() == seven["checksums"]
  load(engine, write(engine, 8, tensors(8)))


def test_a_model_that_lost_what_was_promised(engine):
  load(engine, write(engine, 1, tensors(0)))
  engine.model.a.data[3, 4] += 1
  with pytest.raises(RuntimeError, match="other weights than were promised"):
    engine.held()


def test_a_model_that_does_not_hold_what_was_loaded(engine, monkeypatch):
  info = write(engine, 1, tensors(0))
  engine.prepare(info)
  write_all = destinations.write

  def write_half(places, pieces):
    if pieces[0][1].ndim > 1:
      write_all(places, pieces)

  monkeypatch.setattr(destinations, "write", write_half)
  with pytest.raises(RuntimeError, match="other weights than were promised"):
    finish(engine, info)


def test_a_part_that_is_missing_or_there_twice(engine):
  whole = tensors(0)
  info = write(engine, 1, whole)
  top, rest = whole["a"][:10].contiguous(), whole["a"][10:].contiguous()
  halves = {"a[0:10,0:40]": top, "a[10:30,0:40]": rest, "b": whole["b"]}
  one_less = {k: t for k, t in halves.items() if t is not rest}
  twice = halves | {"a[5:10,0:40]": top[5:].clone()}
  for entries in (one_less, twice):
    bad = write(engine, 1, entries) | {"checksums": info["checksums"]}
    with pytest.raises(InvalidWeights, match="from their checksums: a"):
      engine.prepare(bad)
  load(engine, write(engine, 1, halves) | {"checksums": info["checksums"]})
  assert torch.equal(engine.model.a, whole["a"])


def test_a_refusal_leaves_nothing_to_load(engine):
  good = write(engine, 1, tensors(0))
  engine.prepare(good)
  with pytest.raises(InvalidWeights, match="is not a file"):
    engine.prepare({**good, "files": {"none": "0"}})
  assert engine._prepared is None
