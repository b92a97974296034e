"""Which part of each tensor a rank takes, with vLLM's own layers."""

import dataclasses

import pytest
import torch

pytest.importorskip("vllm")

from atlas_vllm import destinations
from vllm import config as vllm_config
from vllm.model_executor import parameter
from vllm.model_executor.layers import linear, vocab_parallel_embedding

D, N, H, F, VOCAB = 8, 4, 2, 12, 100  # VOCAB is padded to 128


@dataclasses.dataclass(frozen=True)
class Rank:
  """Its part of a layer and an embedding."""

  model: torch.nn.Module
  places: dict[str, list[destinations.Place]]


class Model(torch.nn.Module):
  """Fused as vLLM's Llama and Qwen2 are."""

  def __init__(self, kv_heads):
    super().__init__()
    self.qkv = linear.QKVParallelLinear(D, H, N, kv_heads, bias=True)
    self.up = linear.MergedColumnParallelLinear(D, [F, F], bias=False)
    self.down = linear.RowParallelLinear(F, D, bias=False)
    self.embed = vocab_parallel_embedding.VocabParallelEmbedding(VOCAB, D)
    self.norm = torch.nn.Parameter(torch.zeros(D))
    for own in self.parameters():
      own.data.zero_()

  def load_weights(self, weights):
    for name, tensor in weights:
      layer, *shard, kind = name.split(".")
      if kind == "norm":
        self.norm.data.copy_(tensor)
        continue
      of = getattr(getattr(self, layer), kind)
      shard = [int(s) if s.isdigit() else s for s in shard]
      of.weight_loader(of, tensor, *shard)


def shapes(kv_heads):
  heads = {"q": N, "k": kv_heads, "v": kv_heads}
  return {
    **{f"qkv.{s}.weight": (n * H, D) for s, n in heads.items()},
    **{f"qkv.{s}.bias": (n * H,) for s, n in heads.items()},
    "up.0.weight": (F, D),
    "up.1.weight": (F, D),
    "down.weight": (D, F),
    "embed.weight": (VOCAB, D),
    "norm.norm": (D,),
  }


def open_rank(monkeypatch, kv_heads, rank, size):
  for module in (linear, parameter, vocab_parallel_embedding):
    for name, value in (("rank", rank), ("world_size", size)):
      monkeypatch.setattr(
        module, f"get_tensor_model_parallel_{name}", lambda v=value: v
      )
  with vllm_config.set_current_vllm_config(vllm_config.VllmConfig()):
    model = Model(kv_heads)
  return Rank(model, destinations.find(model, shapes(kv_heads)))


def tensors(kv_heads, seed):
  generator = torch.Generator().manual_seed(seed)
  return {
    name: torch.randn(shape, generator=generator)
    for name, shape in shapes(kv_heads).items()
  }


def boxes(rank):
  return {n: [p.box for p in places] for n, places in rank.places.items()}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_ranks_take_what_vllm_gives_them(monkeypatch, kv_heads, size):
  old, new = tensors(kv_heads, 0), tensors(kv_heads, 1)
  ranks = []
  for rank in range(size):
    loaded = open_rank(monkeypatch, kv_heads, rank, size)
    loaded.model.load_weights(new.items())  # vLLM's own slices
    ranks.append(open_rank(monkeypatch, kv_heads, rank, size))
    for name, places in ranks[-1].places.items():
      box = destinations.Box(0, 0, len(old[name]), old[name][0].numel())
      destinations.write(places, [(box, old[name])])
      # Every third value, then all, as a delta brings them.
      for step in (3, 1):
        indices = torch.arange(old[name].numel())[::step].flip(0)
        values = new[name].flatten()[indices]
        width = destinations.columns(old[name].shape)
        for part in destinations.values(places, width, indices, values):
          part.write()
    for name, want in loaded.model.named_parameters():
      assert want.any()
      assert torch.equal(ranks[-1].model.get_parameter(name), want), name
  destinations.check_cover(map(boxes, ranks), shapes(kv_heads))
  for name, shape in shapes(kv_heads).items():
    parts = [place for rank in ranks for place in rank.places[name]]
    whole = destinations.Box(0, 0, shape[0], destinations.columns(shape))
    read = torch.empty(whole[2:])
    for place in parts:
      read[place.box.within(whole)] = place.target
    assert torch.equal(read.view(shape), new[name]), name


def test_the_boxes_of_two_ranks(monkeypatch):
  first, second = (open_rank(monkeypatch, 1, rank, 2) for rank in (0, 1))
  # First row and column, rows, columns.
  assert boxes(first)["qkv.q.weight"] == [(0, 0, 4, 8)]
  assert boxes(second)["qkv.q.weight"] == [(4, 0, 4, 8)]
  assert boxes(second)["qkv.q.bias"] == [(4, 0, 4, 1)]
  assert boxes(second)["up.1.weight"] == [(6, 0, 6, 8)]
  assert boxes(second)["down.weight"] == [(0, 6, 8, 6)]
  assert boxes(second)["embed.weight"] == [
    (64, 0, 36, 8)
  ]  # the rest is padding
  # One KV head: both have it, and the norm.
  for name in ("qkv.k.weight", "qkv.v.bias", "norm.norm"):
    assert boxes(first)[name] == boxes(second)[name]


def test_a_model_that_is_not_all_there(monkeypatch):
  first = open_rank(monkeypatch, 1, 0, 2)
  with pytest.raises(
    NotImplementedError, match=r"qkv\.q\.weight: 32 of its 64 values are loaded"
  ):
    destinations.check_cover([boxes(first)], shapes(1))


class Odd(torch.nn.Module):
  """Takes its one tensor as `take` says."""

  def __init__(self, take):
    super().__init__()
    self._take, self.w = take, torch.nn.Parameter(torch.zeros(4, 4))

  def load_weights(self, weights):
    for _, tensor in weights:
      part = self._take(tensor)
      self.w.data.flatten()[: part.numel()].view(part.shape).copy_(part)


@pytest.mark.parametrize(
  "take",
  [lambda t: t.T[:, ::2], lambda t: t[:, ::2], lambda t: t.flatten()[2:10]],
)
def test_a_part_that_is_no_box_is_refused(take):
  with pytest.raises(NotImplementedError, match=r"w: .* is not a box of rows"):
    destinations.find(Odd(take), {"w": (4, 4)})


def test_a_place_in_the_middle_of_rows():
  model = Odd(lambda t: t[1:3, 1:4])
  (place,) = destinations.find(model, {"w": (4, 4)})["w"]
  assert place.box == (1, 1, 2, 3)
  indices = torch.tensor([15, 11, 4, 5, 8])  # three lie outside
  (part,) = destinations.values([place], 4, indices, indices + 0.5)
  part.write()
  assert place.target.tolist() == [[5.5, 0, 0], [0, 0, 11.5]]
