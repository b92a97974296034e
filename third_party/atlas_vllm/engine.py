"""A vLLM weight transfer engine that takes safetensors files.

The life cycle is vLLM's: init once, then for each update start, update,
finish. What is new: `prepare` checks files completely before the model is
touched, and `held` says what the model holds. Both are called through
`worker.WeightWorker`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
  WeightTransferEngine,
  WeightTransferInitInfo,
  WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import (
  UnquantizedEmbeddingMethod,
)

from atlas_vllm import checksum, delta, destinations, ranks, weights_file
from atlas_vllm.weights_file import InvalidWeights

_FIRST_VERSION = "default"  # vLLM's name for the weights that it started with


@dataclass
class InitInfo(WeightTransferInitInfo):
  root: str  # files come from this directory and no other


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
  files: dict[str, str]  # of safetensors, relative to root: BLAKE3 of each
  version: str
  checksums: dict[str, str]  # of each whole tensor (checksum.py)
  restart: bool = False  # the version may be older than the one held


@dataclass
class _Prepared:
  """Checked files: all tensors, or changes of what the model holds."""

  info: UpdateInfo
  tensors: dict[str, destinations.Pieces]
  changes: dict[str, list[destinations.Values]]


class FileWeightTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
  """Loads weights and deltas, in the names of the model's checkpoint."""

  init_info_cls = InitInfo
  update_info_cls = UpdateInfo
  supports_draft_weight_update = False

  def __init__(self, config, vllm_config, device, model):
    super().__init__(config, vllm_config, device, model)
    self._root: Path | None = None
    self._shapes: dict[str, tuple[int, ...]] = {}
    self._places: dict[str, list[destinations.Place]] = {}
    self._prepared: _Prepared | None = None
    self._loaded: _Prepared | None = None  # and not yet packed
    self._held: UpdateInfo | None = None  # of the last update

  def init_transfer_engine(self, init_info: InitInfo) -> None:
    """Learns where each tensor of the model's checkpoint lies.

    Raises:
      ValueError: the model is quantised, or its directory has no safetensors.
      NotImplementedError: its layout is not supported (see destinations.py).
    """
    if self.vllm_config.quant_config is not None:
      raise ValueError("a quantised model cannot take weights from files")
    if self.vllm_config.parallel_config.pipeline_parallel_size > 1:
      raise ValueError("a model cut by layers cannot take weights from files")
    destinations.check_cover(ranks.agree(self._find), self._shapes)
    self._root = Path(init_info.root)

  def _find(self) -> dict[str, list[destinations.Box]]:
    """The boxes of each tensor that this rank has."""
    shapes = _checkpoint_shapes(Path(self.model_config.model))
    places = destinations.find(self.model, shapes)
    # A tensor without a place (a lm_head stored beside tied embeddings) is
    # not part of the model, so it is not part of an update either.
    self._places = {name: p for name, p in places.items() if p}
    self._shapes = {name: shapes[name] for name in self._places}
    return {name: [p.box for p in held] for name, held in self._places.items()}

  def prepare(self, update_info: dict) -> None:
    """Checks files and keeps their content for the update that follows.

    Raises:
      InvalidWeights: it must not be loaded.
    """
    self._prepared = None  # its memory goes before there is more
    info = self.parse_update_info(update_info)
    if self._root is None:
      raise InvalidWeights("init_weight_transfer_engine was not called")
    held = self._held
    if held is not None and not info.restart:
      same = info.version == held.version and info.checksums == held.checksums
      if not same and int(info.version) <= int(held.version):
        raise InvalidWeights(
          f"the server holds version {held.version}, which {info.version} does"
          " not follow, and the update does not say restart"
        )
    prepared = _Prepared(info, {}, {})
    gained = ranks.agree(lambda: self._check(prepared))
    if not prepared.tensors:
      found = dict(held.checksums)
      for name, gain in ranks.whole(gained).items():
        found[name] = checksum.text(checksum.parse(found[name]) + gain)
      weights_file.compare(found, info.checksums)
    self._prepared = prepared

  def _check(self, prepared: _Prepared) -> ranks.Sums:
    """Fills what is prepared; of a delta, what the sums gain in each box.

    That is of what the model really holds where it changes, and of what it
    shall hold there: together with what is held it is what is promised.
    """
    info, dtype = prepared.info, self.model_config.dtype
    most = weights_file.most_bytes(self._shapes, dtype)
    metadata, entries = weights_file.read_all(self._root, info.files, most)
    if metadata.get("format") != delta.FORMAT:
      prepared.tensors.update(
        weights_file.check(entries, self._shapes, dtype, info.checksums)
      )
      return {}
    held = self._held and self._held.version
    delta.check_versions(metadata, info.version, held)
    changes = delta.parse(entries, self._shapes, dtype)
    weights_file.check_promises(set(self._shapes), info.checksums)

    def gained(name: str) -> ranks.BoxSums:
      width, change = destinations.columns(self._shapes[name]), changes[name]
      prepared.changes[name] = destinations.values(
        self._places[name], width, change.indices, change.values
      )
      return {
        new.place.box: checksum.of_change(
          new.indices, new.old(), new.new, width
        )
        for new in prepared.changes[name]
      }

    return weights_file.each(changes, gained)

  def start_weight_update(self) -> None:
    pass  # tensors are written in place

  def update_weights(self, update_info: dict) -> None:
    self.receive_weights(self.parse_update_info(update_info))
    if self.device.type != "cpu":
      torch.accelerator.synchronize()

  def receive_weights(self, update_info: UpdateInfo) -> None:
    """Copies what the prepared files hold into the model."""
    if self._prepared is None or self._prepared.info != update_info:
      self.prepare(asdict(update_info))
    self._loaded, self._prepared = self._prepared, None
    with torch.no_grad():
      for name, pieces in self._loaded.tensors.items():
        destinations.write(self._places[name], pieces)
      for changed in self._loaded.changes.values():
        for new in changed:
          new.write()

  def finish_weight_update(self) -> None:
    """Packs again what kernels use in a packed form, where it changed.

    On a CPU that is every Linear and the embedding, a tied lm_head with a
    packed copy of its own included; elsewhere these methods do nothing. After
    full files all that is held is read back, and must be what was promised.
    """
    changed = {
      place.target.untyped_storage().data_ptr()
      for name in (*self._loaded.tensors, *self._loaded.changes)
      for place in self._places[name]
    }
    methods = (UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
    for module in self.model.modules():
      method = getattr(module, "quant_method", None)
      if isinstance(method, methods) and any(
        parameter.untyped_storage().data_ptr() in changed
        for parameter in module.parameters(recurse=False)
      ):
        method.process_weights_after_loading(module)
    loaded, self._loaded = self._loaded, None
    self._held = loaded.info
    if loaded.tensors:
      self.held()

  def held(self, version: str | None = None) -> dict[str, str]:
    """Checksum of each tensor that the model holds, in checkpoint names.

    Raises:
      RuntimeError: that is not what the last update promised, or that was not
        an update to `version`.
    """
    own = self._held.version if self._held else _FIRST_VERSION
    if version not in (None, own):
      raise RuntimeError(f"an engine holds version {own} and not {version}")
    sums = ranks.agree(lambda: weights_file.each(self._shapes, self._sums))
    found = {n: checksum.text(one) for n, one in ranks.whole(sums).items()}
    if self._held is not None and found != self._held.checksums:
      raise RuntimeError("the model holds other weights than were promised")
    return found

  def _sums(self, name: str) -> ranks.BoxSums:
    dtype = self.model_config.dtype
    return {
      p.box: checksum.of_box(p.target.to(dtype), *p.box[:2])
      for p in self._places[name]
    }

  def forget(self) -> None:
    """Frees files that were checked; another engine has refused them."""
    self._prepared = None

  def shutdown(self) -> None:
    self.forget()


def _checkpoint_shapes(model_dir: Path) -> dict[str, tuple[int, ...]]:
  """Names and shapes of all tensors in a model directory."""
  index = model_dir / "model.safetensors.index.json"
  if index.is_file():
    names = set(json.loads(index.read_text())["weight_map"].values())
    files = [model_dir / name for name in sorted(names)]
  else:
    files = sorted(model_dir.glob("*.safetensors"))
  if not files:
    raise ValueError(f"no *.safetensors in {model_dir}")
  shapes = {}
  for path in files:
    with safe_open(path, framework="pt") as f:
      for name in f.keys():  # noqa: SIM118
        shapes[name] = tuple(f.get_slice(name).get_shape())
  return shapes
