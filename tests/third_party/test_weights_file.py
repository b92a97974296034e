"""What is refused before a model is touched, and where tensors go."""

import os

import pytest
import torch
from atlas_vllm import checksum, destinations, weights_file
from atlas_vllm.destinations import Box
from atlas_vllm.weights_file import InvalidWeights
from safetensors.torch import save_file

SHAPES = {"a": (2, 3), "b": (4,)}
MOST = weights_file.most_bytes(SHAPES, torch.float32)


def tensors(**changes):
  return {"a": torch.ones(2, 3), "b": torch.arange(4.0), **changes}


def digests(tensors):
  return {k: checksum.text(checksum.of_box(t)) for k, t in tensors.items()}


def check(tensors, *, dtype=torch.float32, sums=None):
  sums = digests(tensors) if sums is None else sums
  weights_file.check(tensors, SHAPES, dtype, sums)


def whole(tensor):
  """As a file holds it that has all of it."""
  rows = len(tensor)
  return [(Box(0, 0, rows, tensor.numel() // rows), tensor)]


def test_good_tensors_pass():
  check(tensors())
  # Finite values whose sum is not.
  check(tensors(b=torch.full((4,), 3e38)))


@pytest.mark.parametrize(
  "bad, reason",
  [
    (tensors(z=torch.ones(1)), "unknown to the model: z"),
    ({"a": torch.ones(2, 3)}, "lacks tensors of the model: b"),
    (tensors(a=torch.ones(3, 2)), r"wrong shape: a \(3, 2\) instead of \(2, 3"),
    (
      tensors(a=torch.ones(2, 3).half()),
      r"not torch\.float32: a",
    ),
    (tensors(b=torch.tensor([0.0, 1.0, float("nan"), 2.0])), "in: b"),
    (tensors(b=torch.tensor([float("inf"), -float("inf"), 0.0, 0.0])), "in: b"),
  ],
)
def test_bad_tensors_are_refused(bad, reason):
  with pytest.raises(InvalidWeights, match=reason):
    check(bad)


def test_checksums_are_compared():
  good = digests(tensors())
  with pytest.raises(InvalidWeights, match="differ from their checksums: b"):
    check(tensors(b=torch.zeros(4)), sums=good)
  with pytest.raises(InvalidWeights, match="no promised checksum for: a"):
    check(tensors(), sums={"b": good["b"]})
  with pytest.raises(InvalidWeights, match="were promised: c"):
    check(tensors(), sums={**good, "c": "0"})


A = torch.arange(12.0).reshape(3, 4)
COVERS = {
  "whole": {"a": A},
  "rows": {"a[0:1,0:4]": A[:1], "a[1:3,0:4]": A[1:]},
  "a windmill": {
    "a[0:1,0:3]": A[:1, :3],
    "a[0:2,3:4]": A[:2, 3:],
    "a[2:3,1:4]": A[2:, 1:],
    "a[1:3,0:1]": A[1:, :1],
    "a[1:2,1:3]": A[1:2, 1:3],
  },
}
NO_COVERS = {
  "one is missing": {"a[0:1,0:4]": A[:1]},
  "one is twice": {"a": A, "a[1:2,0:2]": A[1:2, :2]},
  "all is twice": {"a": A, "a[0:3,0:4]": A},
  "all is thrice": {"a": A, "a[0:3,0:4]": A, "a[00:3,0:4]": A},
  "one is twice, as many are missing": {
    "a[0:2,0:4]": A[:2],
    "a[1:2,0:4]": A[1:2],
  },
  "two share a part": {
    "a[0:3,0:2]": A[:, :2],
    "a[0:1,1:4]": A[:1, 1:],
    "a[2:3,1:4]": A[2:, 1:],
  },
}


@pytest.mark.parametrize("case", [*COVERS, *NO_COVERS])
def test_each_value_is_there_once_whatever_is_promised(case):
  entries = (COVERS | NO_COVERS)[case]
  entries = {name: part.contiguous() for name, part in entries.items()}
  shapes = {"a": (3, 4)}
  total = 0
  for name, (_, box) in weights_file.boxes(entries, shapes).items():
    total = total + checksum.of_box(entries[name], box.row, box.column)
  given = entries, shapes, torch.float32, {"a": checksum.text(total)}
  if case in COVERS:
    assert len(weights_file.check(*given)["a"]) == len(entries)
  else:
    with pytest.raises(InvalidWeights, match="each value once of: a"):
      weights_file.check(*given)


def test_many_names_are_cut():
  bad = tensors(**{f"z{i}": torch.ones(1) for i in range(9)})
  with pytest.raises(InvalidWeights, match="z4 and 4 more"):
    check(bad)


def test_paths_stay_inside(tmp_path):
  root = tmp_path / "root"
  root.mkdir()
  (root / "in").write_text("")
  (tmp_path / "out").write_text("")
  (root / "link").symlink_to(tmp_path / "out")
  assert weights_file.inside(root, "in") == (root / "in").resolve()
  for path in ("../out", str(tmp_path / "out"), "link"):
    with pytest.raises(InvalidWeights, match="outside"):
      weights_file.inside(root, path)
  for path in ("missing", "."):
    with pytest.raises(InvalidWeights, match="not a file"):
      weights_file.inside(root, path)


LOOP, FAR = "loop", "/".join(["d"] * 5000)
ODD_PATHS = {
  "\0": "is no path",
  "in\0": "is no path",
  LOOP: "is no path",
  FAR: "is no path",
  "n" * 300: "is no path",
  "\ud800": "is no path",
  "in/more": "is not a file",
  "fifo": "is not a file",
  "/dev/zero": "outside",
  "device": "outside",
  "": "is not a file",
  "a\nb\x1b[2J": r"'a\\nb\\x1b\[2J' is not a file",
}


@pytest.mark.parametrize("path", ODD_PATHS, ids=range(len(ODD_PATHS)))
def test_odd_paths_are_refused_in_one_line(tmp_path, path):
  (tmp_path / "in").write_text("")
  (tmp_path / LOOP).symlink_to(tmp_path / LOOP)
  (tmp_path / "device").symlink_to("/dev/zero")
  os.mkfifo(tmp_path / "fifo")
  with pytest.raises(InvalidWeights, match=ODD_PATHS[path]) as error:
    weights_file.inside(tmp_path, path)
  assert str(error.value).isprintable() and len(str(error.value)) <= 1000


def test_a_fifo_that_took_the_files_place_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "fifo")
  with pytest.raises(InvalidWeights, match="not a whole safetensors file"):
    weights_file.read(tmp_path / "fifo", MOST)
  with pytest.raises(InvalidWeights, match="not a whole safetensors file"):
    weights_file.read(tmp_path, MOST)


def test_half_a_file_is_refused(tmp_path):
  path = tmp_path / "x.safetensors"
  save_file(tensors(), path)
  whole = path.read_bytes()
  metadata, read = weights_file.read(path, MOST)
  assert metadata == {} and set(read) == {"a", "b"}
  for length in (0, 5, 40, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(InvalidWeights, match="not a whole safetensors file"):
      weights_file.read(path, MOST)


class Fused(torch.nn.Module):
  """Holds q and k in one parameter and pads the vocabulary, as vLLM does."""

  def __init__(self):
    super().__init__()
    self.qk = torch.nn.Parameter(torch.full((5, 2), 7.0))
    self.embed = torch.nn.Parameter(torch.full((4, 2), 9.0))

  def load_weights(self, weights):
    rows = {"q": (0, 3), "k": (3, 2)}
    for name, tensor in weights:
      if name in rows:
        view = self.qk.data.narrow(0, *rows[name])
        assert view.shape == tensor.shape
        view.copy_(tensor)
      elif name == "embed":
        self.embed.data[: len(tensor)].copy_(tensor)
        self.embed.data[len(tensor) :].fill_(0)
      elif name == "turned":
        self.embed.data.copy_(tensor.T.contiguous())
      elif name == "half":
        self.embed.data[:1].copy_(tensor[:1])
      elif name != "skipped":
        raise KeyError(name)


FUSED = {"q": (3, 2), "k": (2, 2), "embed": (3, 2), "skipped": (8,)}


def test_finding_places_changes_nothing():
  model = Fused()
  before = {k: v.clone() for k, v in model.state_dict().items()}
  places = destinations.find(model, FUSED)
  for name, value in model.state_dict().items():
    torch.testing.assert_close(value, before[name], rtol=0, atol=0)
  assert {k: len(v) for k, v in places.items()} == {
    "q": 1,
    "k": 1,
    "embed": 1,
    "skipped": 0,
  }


def test_write_and_read_are_what_load_weights_does():
  model, oracle = Fused(), Fused()
  given = {name: torch.randn(shape) for name, shape in FUSED.items()}
  oracle.load_weights(list(given.items()))
  places = destinations.find(model, FUSED)
  for name in ("q", "k", "embed"):
    destinations.write(places[name], whole(given[name]))
    (place,) = places[name]
    torch.testing.assert_close(place.target, given[name], rtol=0, atol=0)
  torch.testing.assert_close(model.qk, oracle.qk, rtol=0, atol=0)
  torch.testing.assert_close(model.embed[:3], oracle.embed[:3])


def test_layouts_that_cannot_be_read_back_are_refused():
  with pytest.raises(NotImplementedError, match="computed"):
    destinations.find(Fused(), {"turned": (2, 4)})
  with pytest.raises(NotImplementedError, match="half: 2 of its 8 values"):
    places = destinations.find(Fused(), {"half": (4, 2)})
    boxes = {name: [p.box for p in of] for name, of in places.items()}
    destinations.check_cover([boxes], {"half": (4, 2)})


class Turned(torch.nn.Module):
  """Holds a tensor in two parts, and one the other way round."""

  def __init__(self):
    super().__init__()
    self.left = torch.nn.Parameter(torch.zeros(3, 2))
    self.right = torch.nn.Parameter(torch.zeros(3, 4))
    self.turned = torch.nn.Parameter(torch.zeros(4, 3))

  def load_weights(self, weights):
    for name, tensor in weights:
      if name == "cut":
        self.left.data.copy_(tensor[:, :2])
        self.right.data.copy_(tensor[:, 2:])
      elif name == "turned":
        self.turned.data.copy_(tensor.T)


@pytest.mark.parametrize(
  "model, shapes",
  [
    (Fused, {"q": (3, 2), "k": (2, 2), "embed": (3, 2)}),
    (Turned, {"cut": (3, 6), "turned": (3, 4)}),
  ],
)
def test_write_at_is_what_load_weights_does(model, shapes):
  updated, oracle = model(), model()
  old = {name: torch.randn(shape) for name, shape in shapes.items()}
  updated.load_weights(list(old.items()))
  places = destinations.find(updated, shapes)
  new = {}
  for name, shape in shapes.items():
    indices = torch.tensor([0, 2, 3])
    values = torch.tensor([5.0, -0.0, 7.0])
    flat = old[name].reshape(-1).clone()
    flat[indices] = values
    new[name] = flat.view(shape)
    width = destinations.columns(shape)
    for part in destinations.values(places[name], width, indices, values):
      part.write()
  oracle.load_weights(list(new.items()))
  for name, parameter in updated.named_parameters():
    want = oracle.get_parameter(name)
    assert torch.equal(parameter.view(torch.int32), want.view(torch.int32))
