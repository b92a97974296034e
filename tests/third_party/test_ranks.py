"""Two ranks of an engine, as threads: what one refuses the other does, too."""

import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from atlas_vllm import destinations, ranks
from atlas_vllm.engine import FileWeightTransferEngine
from atlas_vllm.weights_file import InvalidWeights
from atlas_vllm.worker import WeightWorker

from tests.serving import publications

SHAPES = {"rows": (8, 6), "columns": (4, 8), "both": (3, 4), "norm": (5,)}


class Model(torch.nn.Module):
  """A rank's half of two tensors, and two that both ranks have."""

  def __init__(self, rank):
    super().__init__()
    self._rank = rank
    shapes = SHAPES | {"rows": (4, 6), "columns": (4, 4)}
    for name, shape in shapes.items():
      self.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))

  def load_weights(self, weights):
    for name, tensor in weights:
      if name in ("rows", "columns"):
        axis = int(name == "columns")
        tensor = tensor.narrow(axis, 4 * self._rank, 4)
      self.get_parameter(name).data.copy_(tensor)


class Pair:
  """Both ranks' engines; `each` calls a method of both at one time."""

  def __init__(self, root, monkeypatch):
    self._own, self._given = threading.local(), [None, None]
    self._barrier = threading.Barrier(2, timeout=20)
    monkeypatch.setattr(ranks, "gather", self._gather)
    self.engines = [self._open(rank, root) for rank in (0, 1)]

  def _open(self, rank, root):
    engine = FileWeightTransferEngine.__new__(FileWeightTransferEngine)
    engine.model, engine.device = Model(rank), torch.device("cpu")
    engine.model_config = types.SimpleNamespace(dtype=torch.float32)
    engine._root, engine._shapes = root, SHAPES
    engine._places = destinations.find(engine.model, SHAPES)
    engine._prepared = engine._loaded = engine._held = None
    return engine

  def _gather(self, value):
    self._given[self._own.rank] = value
    self._barrier.wait()
    values = list(self._given)
    self._barrier.wait()
    return values

  def each(self, method, *args):
    """What each rank's call gives or raises."""

    def call(rank):
      self._own.rank = rank
      try:
        return getattr(self.engines[rank], method)(*args)
      except Exception as error:
        return error

    with ThreadPoolExecutor(2) as pool:
      return list(pool.map(call, (0, 1)))

  def load(self, info):
    assert self.each("prepare", info) == [None, None]
    for engine in self.engines:
      engine.update_weights(info)
    assert self.each("finish_weight_update") == [None, None]


@pytest.fixture
def pair(tmp_path, monkeypatch):
  return Pair(tmp_path, monkeypatch)


def tensors(seed):
  generator = torch.Generator().manual_seed(seed)
  return {
    name: torch.randn(shape, generator=generator).numpy()
    for name, shape in SHAPES.items()
  }


def write(pair, version, now, base=None):
  root = pair.engines[0]._root
  manifest = publications.write(now, root, version, base)
  return {
    "files": manifest.files,
    "version": str(version),
    "checksums": manifest.checksums,
  }


def test_both_take_their_parts_and_sum_to_the_whole(pair):
  first, second = tensors(0), tensors(1)
  pair.load(write(pair, 1, first))
  for version, now, base in (
    (2, second, (1, first)),
    (3, second, (2, second)),  # changes nothing
    (4, first, (3, second)),
  ):
    info = write(pair, version, now, base)
    pair.load(info)
    assert pair.each("held", str(version)) == [info["checksums"]] * 2
    for rank, engine in enumerate(pair.engines):
      fresh = Model(rank)
      fresh.load_weights((n, torch.from_numpy(t)) for n, t in now.items())
      for name, want in fresh.named_parameters():
        assert torch.equal(engine.model.get_parameter(name), want), name


def all_refuse(outcomes, text):
  for outcome in outcomes:
    assert isinstance(outcome, InvalidWeights) and text in str(outcome)


def test_what_one_rank_refuses_both_refuse(pair, monkeypatch):
  pair.load(write(pair, 1, tensors(0)))
  info = write(pair, 2, tensors(1))

  def full(prepared):
    raise MemoryError("no room")

  with monkeypatch.context() as patch:
    patch.setattr(pair.engines[1], "_check", full)
    first, second = pair.each("prepare", info)
  all_refuse([first], "rank 1: no room")
  assert isinstance(second, MemoryError)
  assert [e._prepared for e in pair.engines] == [None, None]
  pair.load(info)


@pytest.mark.parametrize("name", SHAPES)
def test_a_rank_that_lost_a_value_is_found_by_both(pair, name):
  old, new = tensors(0), tensors(1)
  pair.load(write(pair, 1, old))
  pair.engines[1].model.get_parameter(name).data.flatten()[1] += 1
  text = "copies of " if name in ("both", "norm") else "differ from their"
  # All values change, so that which was lost, too.
  all_refuse(pair.each("prepare", write(pair, 2, new, (1, old))), text)
  text = "different copies" if "copies" in text else "other weights than were"
  for outcome in pair.each("held", "1"):
    assert isinstance(outcome, Exception) and text in str(outcome)


def test_another_version_than_the_server_says(pair):
  (outcome, _) = pair.each("held", "default")
  assert outcome == publications.checksums(
    {n: np.zeros_like(t) for n, t in tensors(0).items()}
  )
  pair.load(write(pair, 1, tensors(0)))
  for outcome in pair.each("held", "2"):
    assert str(outcome) == "an engine holds version 1 and not 2"


@pytest.mark.parametrize("rank, raises", [(0, False), (1, False), (2, True)])
def test_the_last_rank_alone_raises(monkeypatch, rank, raises):
  group = types.SimpleNamespace(rank_in_group=rank, world_size=3)
  state = ranks.parallel_state
  monkeypatch.setattr(state, "model_parallel_is_initialized", lambda: True)
  monkeypatch.setattr(state, "get_tp_group", lambda: group)
  worker = WeightWorker()
  worker.weight_transfer_engine = types.SimpleNamespace(prepare=fail, held=fail)
  for call in (worker.atlas_prepare, worker.atlas_held):
    if raises:
      with pytest.raises(InvalidWeights, match="as all do"):
        call({})
    else:
      assert call({}) is None


def fail(_):
  raise InvalidWeights("as all do")
