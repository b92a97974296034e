"""Files whose header lies, or claims more than the model has."""

import json
import os
import struct

import pytest
import torch
from atlas_vllm import delta, weights_file
from atlas_vllm.weights_file import InvalidWeights
from safetensors.torch import save_file

SHAPES = {"a": (1000, 70), "b": (4,)}
MOST = weights_file.most_bytes(SHAPES, torch.float32)
ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def raw(header, data=b"\0" * 16, length=None):
  """The bytes of a file; `header` is an object, or bytes as they are."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  length = len(text) if length is None else length
  return struct.pack("<Q", length) + text + data


def entry(**changes):
  return {"b": {**ENTRY, **changes}}


def many(count):
  return {f"x{i}": {**ENTRY, "data_offsets": [0, 16]} for i in range(count)}


LIES = {
  "empty": b"",
  "seven bytes": b"\1" + b"\0" * 6,
  "length only": struct.pack("<Q", 8),
  "length 0": raw(b"", length=0),
  "length too long": raw(entry(), length=10_000),
  "length huge": raw(entry(), length=2**63),
  "length all ones": raw(entry(), length=2**64 - 1),
  "length too short": raw(entry(), length=5),
  "text": b"not a file of tensors, but of words",
  "zip": b"PK\3\4" + b"\0" * 60,
  "pickle": b"\x80\x02}q\x00." + b"\0" * 60,
  "not JSON": raw(b"{b}"),
  "a list": raw([]),
  "a number": raw(b"7"),
  "null": raw(b"null"),
  "no UTF-8": raw(b'{"\xff": 1}'),
  "half a surrogate": raw(b'{"\\ud800": {"dtype":"F32"}}'),
  "deep": raw(b"[" * 100_000),
  "deep objects": raw(b'{"a":' * 50_000),
  "two values": raw(b"{}{}"),
  "entry is a number": raw({"b": 7}),
  "entry is empty": raw({"b": {}}),
  "no dtype": raw({"b": {k: v for k, v in ENTRY.items() if k != "dtype"}}),
  "no shape": raw({"b": {k: v for k, v in ENTRY.items() if k != "shape"}}),
  "no offsets": raw({"b": {"dtype": "F32", "shape": [4]}}),
  "dtype unknown": raw(entry(dtype="F33")),
  "dtype a number": raw(entry(dtype=32)),
  "dtype of other size": raw(entry(dtype="F64")),
  "shape negative": raw(entry(shape=[-4])),
  "shape a fraction": raw(entry(shape=[4.5])),
  "shape a text": raw(entry(shape="4")),
  "shape null": raw(entry(shape=None)),
  "shape too small": raw(entry(shape=[3])),
  "shape too large": raw(entry(shape=[5])),
  "shape overflows": raw(entry(shape=[2**32, 2**32])),
  "shape overflows to 4": raw(entry(shape=[2**62 + 1, 4])),
  "shape of huge ints": raw(b'{"b":{"dtype":"F32","shape":[' + b"9" * 5000),
  "offsets turned": raw(entry(data_offsets=[16, 0])),
  "offsets negative": raw(entry(data_offsets=[-16, 0])),
  "offsets beyond": raw(entry(data_offsets=[0, 32])),
  "offsets far beyond": raw(entry(data_offsets=[2**60, 2**60 + 16])),
  "offsets of one": raw(entry(data_offsets=[0])),
  "offsets of three": raw(entry(data_offsets=[0, 16, 16])),
  "offsets text": raw(entry(data_offsets=["0", "16"])),
  "a hole at the start": raw(entry(data_offsets=[4, 20]), b"\0" * 20),
  "more at the end": raw(entry(), b"\0" * 20),
  "less at the end": raw(entry(), b"\0" * 12),
  "no data": raw(entry(), b""),
  "overlapping": raw({"a": ENTRY, "b": ENTRY}),
  "many on one place": raw(many(500)),
  "metadata a number": raw({"__metadata__": 7, **entry()}),
  "metadata of numbers": raw({"__metadata__": {"a": 7}, **entry()}),
  "metadata deep": raw({"__metadata__": {"a": {"b": "c"}}, **entry()}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_file_is_refused(tmp_path, lie):
  path = tmp_path / "x.safetensors"
  path.write_bytes(LIES[lie])
  with pytest.raises(InvalidWeights, match=r"^x\.safetensors is not a whole"):
    weights_file.read(path, MOST)


def test_the_truth_is_read(tmp_path):
  path = tmp_path / "x.safetensors"
  path.write_bytes(raw(entry()))
  _, read = weights_file.read(path, MOST)
  assert read["b"].tolist() == [0.0] * 4


def sparse(path, entries):
  """A file of one block that claims these entries; all its values are 0."""
  header, end = {}, 0
  for name, (dtype, count, itemsize) in entries.items():
    begin, end = end, end + count * itemsize
    header[name] = {
      "dtype": dtype,
      "shape": [count],
      "data_offsets": [begin, end],
    }
  path.write_bytes(raw(header, b""))
  os.truncate(path, path.stat().st_size + end)
  assert path.stat().st_blocks * 512 <= 8192


CLAIMS = {
  "gaps": {"a.values": ("F32", 1, 4), "a.gaps": ("U16", 1 << 27, 2)},
  "values": {"a.values": ("F32", 1 << 26, 4), "a.gaps": ("U16", 1, 2)},
  "a tensor": {"a": ("F32", 1 << 26, 4)},
  "an unknown one": {"z": ("F32", 1 << 26, 4)},
  "an unknown pair": {"z.values": ("F32", 1, 4), "z.gaps": ("U16", 1 << 27, 2)},
  "another dtype": {"b.gaps": ("U8", 1 << 28, 1)},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_sparse_file_is_refused_before_it_is_read(
  tmp_path, claim, monkeypatch
):
  path = tmp_path / "x.safetensors"
  sparse(path, CLAIMS[claim])
  monkeypatch.delattr(weights_file.os, "pread")
  with pytest.raises(InvalidWeights, match=r"has 2684.* more than the model"):
    weights_file.read(path, MOST)


def test_a_header_that_claims_all_of_a_sparse_file(tmp_path):
  path = tmp_path / "x.safetensors"
  path.write_bytes(struct.pack("<Q", 1 << 40))
  os.truncate(path, 1 << 41)
  with pytest.raises(InvalidWeights, match="more than the model can take"):
    weights_file.read(path, MOST)


def test_gaps_that_no_tensor_has_are_refused_before_they_are_decoded():
  # 70,000 values: one escape may be needed, two may not.
  entries = {
    "a.values": torch.ones(1),
    "a.gaps": torch.tensor([0, 7], dtype=torch.uint16),
  }
  assert delta.parse(entries, SHAPES, torch.float32)["a"].indices == 65541
  entries["a.gaps"] = torch.tensor([0, 0, 7], dtype=torch.uint16)
  with pytest.raises(InvalidWeights, match="3 gaps for 1 values of a"):
    delta.parse(entries, SHAPES, torch.float32)


def test_a_delta_may_change_every_value(tmp_path):
  path = tmp_path / "x.safetensors"
  given = {
    "a.values": torch.ones(70_000),
    "a.gaps": torch.ones(70_000, dtype=torch.uint16),
  }
  save_file(given, path)
  _, read = weights_file.read(path, MOST)
  changes = delta.parse(read, SHAPES, torch.float32)
  assert changes["a"].indices.tolist() == list(range(70_000))


def test_names_from_a_file_do_not_break_a_line(tmp_path):
  path = tmp_path / "x.safetensors"
  path.write_bytes(raw({"z\n2026 INFO all is well\x1b[2J\u202e": ENTRY}))
  _, read = weights_file.read(path, MOST)
  with pytest.raises(InvalidWeights) as error:
    weights_file.check(read, SHAPES, torch.float32, {})
  text = str(error.value)
  assert text.isprintable() and r"z\n2026 INFO all is well\x1b[2J\u202e" in text
