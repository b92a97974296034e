"""The teacher as the phases train, publish and export it.

Every process holds its shard of the weights and enters every method here that
reads them.
"""

import functools
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import sharding
from atlas_jax.config import ModelConfig
from atlas_jax.data import packing
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.packing import PackedBatch
from atlas_jax.model import decoder, hf, lora
from atlas_jax.model.owned import Owned, iter_owned
from atlas_jax.training import offload, scoring


class Teacher:
  """The weights on the mesh that is set, and what stays the same about them.

  Args:
    options: config.teacher.
    directory: with the weights and the tokenizer that a run begins with.
    chat: its tokenizer.
    seed: of the weights where options.random_init draws them.

  Attributes:
    version: updates over all phases: the name of the weights wherever they
      travel.
  """

  def __init__(
    self,
    options: ModelConfig,
    directory: pathlib.Path,
    chat: ChatTokenizer,
    seed: int,
  ):
    self.options, self.chat, self.version = options, chat, 0
    self.mesh = jax.sharding.get_mesh()
    self.directory, self._seed = directory, seed
    self._hf_config = hf.read_config(directory)
    self.decoder_config = decoder.DecoderConfig.from_hf(self._hf_config)
    self._dtype = jnp.dtype(options.param_dtype)
    self._model = None
    self._score = scoring.make_score_step(
      self.decoder_config, options, temperature=1.0
    )

  @property
  def model(self) -> decoder.Decoder:
    """The parameters as they are now; read, or drawn, when first asked for."""
    if self._model is None:
      self._model = self.first_model()
    return self._model

  def first_model(self) -> decoder.Decoder:
    """The parameters that the config names: read, or drawn."""
    options = self.options.lora
    if self.options.random_init:
      model = hf.init(self.decoder_config, self._seed, self._dtype)
    else:
      _, model = hf.load(self.directory, self._dtype)
    if options.rank:
      draw = functools.partial(lora.draw, self.decoder_config, options)
      model = lora.join(model, jax.jit(lambda: draw(self._seed))())
    return model

  def forget(self) -> None:
    """Frees the parameters; they are read again when they are asked for."""
    self._model = None

  def advance(self, model: decoder.Decoder, updates: int) -> None:
    """`model` is what the teacher has become after so many more updates."""
    self._model, self.version = model, self.version + updates

  def abstract(self) -> decoder.Decoder:
    """The trained model's shapes and shardings, to restore into."""
    model = lora.abstract(self.decoder_config, self.options)
    if self.options.offload == "masters":
      model = jax.eval_shape(offload.device_copy, model)
    return model

  def put(
    self, batch: PackedBatch, micro_batches: int, room: int = 0
  ) -> PackedBatch:
    """[B, T] host arrays, equal on every process, as a step takes them.

    That is [M, B/micro_batches, T] on devices; see packing.split_micro.
    """
    split = packing.split_micro(batch, micro_batches, room)
    return sharding.put_batch(split, self.mesh, batch_axis=1)

  def logprobs(self, ids: list[int]) -> np.ndarray:
    """The log-probs of ids[1:] at temperature 1."""
    mask = np.ones(len(ids), np.float32)
    mask[0] = 0
    parts = self.mesh.shape["context"]
    batch, _ = packing.pack(
      [packing.TokenSequence(np.array(ids, np.int32), mask)],
      length=-(-len(ids) // parts) * parts,
      rows_multiple=sharding.batch_shards(self.mesh),
    )
    scores = sharding.place(self._score(self.model, self.put(batch, 1)))
    return np.asarray(scores)[0, 0, 1 : len(ids)]

  def exported(self, dtype: str) -> Iterator[Owned]:
    """This process's part of all tensors, in Hugging Face names."""
    return iter_owned(self.model, self.decoder_config, jnp.dtype(dtype))

  def export(self, path: pathlib.Path, dtype: str) -> None:
    """Writes the teacher as a Hugging Face directory. A collective.

    Adapters are merged into it, and written for PEFT as PATH-adapter, too.
    """
    hf.save(
      path,
      self.model,
      self.decoder_config,
      self._hf_config,
      source_dir=self.directory,
      dtype=jnp.dtype(dtype),
    )
    options, (base, adapters) = self.options, lora.split(self.model)
    if base is not None:
      beside = path.with_name(f"{path.name}-adapter")
      of = None if options.random_init else options.path
      lora.save_peft(beside, adapters, options.lora, of)

  def first_directory(self, workdir: pathlib.Path, dtype: str) -> pathlib.Path:
    """What a server starts from, before any update. A collective."""
    if not self.options.random_init:
      return self.directory
    self.export(workdir / "initial", dtype)
    return workdir / "initial"
