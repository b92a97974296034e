"""Weights in and out: byte for byte; what does not fit is refused."""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from atlas_jax import stopping
from atlas_jax.model import hf, hf_save, owned
from tests.hub_cache import LFS_POINTER
from tests.model import tiny
from tests.model.exported import exported

KINDS = [
  ("llama", {}),
  ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
  ("qwen2", {"tie_word_embeddings": True}),
  ("qwen3", {"num_key_value_heads": 1}),
]


def export(source: pathlib.Path, out: pathlib.Path, dtype="float32", **options):
  config, model = hf.load(source, jnp.float32)
  hf.save(
    out,
    model,
    config,
    hf.read_config(source),
    source_dir=source,
    dtype=jnp.dtype(dtype),
    **options,
  )
  return config, model


def digests(directory):
  """Tensor name -> hash of its bytes, over all files."""
  out = {}
  for file in sorted(directory.glob("*.safetensors")):
    for name, tensor in load_file(file).items():
      out[name] = (tensor.shape, hashlib.sha256(tensor.tobytes()).hexdigest())
  return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "change"), KINDS)
def test_export_after_import_is_identical(family, change, dtype, tmp_path):
  source = tmp_path / "source"
  tiny.save_model(source, family, dtype=getattr(torch, dtype), **change)
  export(source, tmp_path / "out", dtype)
  assert digests(tmp_path / "out") == digests(source)
  # And again: our own file is a fixed point, header and all.
  export(tmp_path / "out", tmp_path / "again", dtype)
  first, second = (tmp_path / d / "model.safetensors" for d in ("out", "again"))
  assert first.read_bytes() == second.read_bytes()


def test_shards_are_read_and_become_one_file(tmp_path):
  tiny.save_model(tmp_path / "source", "qwen2", max_shard_size="20KB")
  assert (tmp_path / "source" / "model.safetensors.index.json").exists()
  export(tmp_path / "source", tmp_path / "out")
  found = [file.name for file in (tmp_path / "out").glob("*.safetensors*")]
  assert found == ["model.safetensors"]
  assert digests(tmp_path / "out") == digests(tmp_path / "source")


def test_transformers_reads_the_export_and_its_companions(tmp_path):
  import transformers

  source = tmp_path / "source"
  expected = tiny.save_model(source, "qwen3")
  tiny.save_tokenizer(source)
  (source / "tokenizer.model").write_text(LFS_POINTER)  # not read: not needed
  export(source, tmp_path / "out")
  theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
  ours, wanted = theirs.state_dict(), expected.state_dict()
  assert ours.keys() == wanted.keys()
  assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
  assert theirs.generation_config.temperature == 0.7
  for name in ("tokenizer.json", "tokenizer_config.json"):
    assert (tmp_path / "out" / name).read_bytes() == (
      source / name
    ).read_bytes()
  assert (tmp_path / "out" / "chat_template.jinja").exists()


def test_an_older_model_is_replaced_whole_and_other_things_are_not(tmp_path):
  tiny.save_model(tmp_path / "source", "llama")
  out = tmp_path / "out"
  export(tmp_path / "source", out)
  (out / "left-over.txt").write_text("x")
  export(tmp_path / "source", out, "bfloat16")
  assert not (out / "left-over.txt").exists()
  written = json.loads((out / "config.json").read_text())
  assert (written["dtype"], written["torch_dtype"]) == ("bfloat16", "bfloat16")
  (tmp_path / "notes").mkdir()
  (tmp_path / "notes" / "a.txt").write_text("mine")
  with pytest.raises(hf.WeightsError, match="not a model directory"):
    export(tmp_path / "source", tmp_path / "notes")
  with pytest.raises(hf.WeightsError, match="own source directory"):
    export(tmp_path / "source", tmp_path / "source")


def _rename(tensors):
  tensors["model.norm.scale"] = tensors.pop("model.norm.weight")


def _drop(tensors):
  del tensors["model.layers.1.mlp.up_proj.weight"]


def _add(tensors):
  tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(32, np.float32)


def _reshape(tensors):
  name = "model.layers.0.mlp.down_proj.weight"
  tensors[name] = np.ascontiguousarray(tensors[name].T)


def _retype(tensors):
  tensors["model.norm.weight"] = np.ones(32, np.int32)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (_rename, r"missing tensor model\.norm\.weight"),
    (_drop, r"missing tensor model\.layers\.1\.mlp\.up_proj\.weight"),
    (_add, r"unknown tensor model\.layers\.0\.self_attn\.q_proj\.bias"),
    (_reshape, r"down_proj\.weight has shape \[48, 32\], expected \[32, 48\]"),
    (_retype, r"model\.norm\.weight is stored as I32; valid: F32"),
  ],
)
def test_what_does_not_fit_is_refused(damage, message, tmp_path):
  tiny.save_model(tmp_path, "llama")
  file = tmp_path / "model.safetensors"
  tensors = load_file(file)
  damage(tensors)
  save_file(tensors, file, metadata={"format": "pt"})
  with pytest.raises(hf.WeightsError, match=message) as error:
    hf.load(tmp_path, jnp.float32)
  assert str(tmp_path) in str(error.value)


def test_a_tensor_in_two_files_is_refused(tmp_path):
  tiny.save_model(tmp_path, "llama")
  norm = {"model.norm.weight": np.ones(32, np.float32)}
  save_file(norm, tmp_path / "more.safetensors")
  with pytest.raises(hf.WeightsError, match="stored twice"):
    hf.load(tmp_path, jnp.float32)


def test_files_that_are_missing_or_cut_are_refused(tmp_path):
  tiny.save_model(tmp_path, "llama", max_shard_size="20KB")
  shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
  whole = shard.read_bytes()
  shard.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(hf.WeightsError, match=shard.name):
    hf.load(tmp_path, jnp.float32)
  shard.write_text(LFS_POINTER)
  with pytest.raises(
    hf.WeightsError, match=f"{shard.name} is a pointer of Git"
  ):
    hf.load(tmp_path, jnp.float32)
  shard.unlink()
  with pytest.raises(hf.WeightsError, match=f"{shard.name}, which is missing"):
    hf.load(tmp_path, jnp.float32)
  for file in tmp_path.glob("model*"):
    file.unlink()
  with pytest.raises(hf.WeightsError, match=r"no model\.safetensors"):
    hf.load(tmp_path, jnp.float32)


def test_a_tied_head_that_differs_is_refused(tmp_path):
  tiny.save_model(tmp_path, "llama", tie_word_embeddings=True)
  file = tmp_path / "model.safetensors"
  tensors = load_file(file)
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
  save_file(tensors, file, metadata={"format": "pt"})
  hf.load(tmp_path, jnp.float32)  # the same numbers twice do no harm
  tensors["lm_head.weight"][0, 0] += 1
  save_file(tensors, file, metadata={"format": "pt"})
  with pytest.raises(hf.WeightsError, match="tie_word_embeddings"):
    hf.load(tmp_path, jnp.float32)


def test_rounding_to_bfloat16_is_to_nearest_even(tmp_path):
  tiny.save_model(tmp_path / "source", "llama")
  config, model = hf.load(tmp_path / "source", jnp.float32)
  ours = exported(model, config, jnp.bfloat16)
  for name, tensor in load_file(
    tmp_path / "source" / "model.safetensors"
  ).items():
    expected = torch.from_numpy(tensor).to(torch.bfloat16).view(torch.int16)
    np.testing.assert_array_equal(ours[name].view(np.int16), expected.numpy())


def test_a_stop_ends_an_export_at_once(tiny_models, tmp_path, monkeypatch):
  made, sent = [], hf_save._sent

  def stop(*args):
    raise stopping.Stopped(15)

  monkeypatch.setattr(
    hf_save, "_sent", lambda *args: made.append(1) or sent(*args)
  )
  monkeypatch.setattr(hf_save, "_check_finite", stop)
  with pytest.raises(stopping.Stopped):
    export(tiny_models["llama"], tmp_path / "out")
  assert len(made) == owned.AHEAD + 1  # of some twenty
  assert not list(tmp_path.iterdir())


def test_one_value_that_is_no_number_is_not_exported(tiny_models, tmp_path):
  config, model = hf.load(tiny_models["llama"], jnp.float32)
  model.final_norm[...] = model.final_norm[...].at[1].set(jnp.nan)
  source = tiny_models["llama"]
  with pytest.raises(hf_save.WeightsError, match=r"model\.norm\.weight has"):
    hf.save(
      tmp_path / "out",
      model,
      config,
      hf.read_config(source),
      source_dir=source,
      dtype=jnp.dtype("float32"),
    )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_export_outlives_the_model(tiny_models, dtype):
  config, model = hf.load(tiny_models["llama"], jnp.float32)
  one_by_one = {
    name: tensor.copy()
    for name, tensor in exported(model, config, dtype).items()
  }
  ours = exported(model, config, dtype)
  jax.jit(lambda m: jax.tree.map(jnp.zeros_like, m), donate_argnums=0)(model)
  assert list(ours) == list(one_by_one)
  for name, tensor in one_by_one.items():
    np.testing.assert_array_equal(ours[name], tensor)


def test_a_random_model_has_the_shapes_of_a_loaded_one(tiny_models):
  config, loaded = hf.load(tiny_models["qwen3"], jnp.float32)
  for made in (
    hf.init(config, 0, jnp.float32),
    hf.abstract(config, jnp.float32),
  ):
    assert jax.tree.structure(made) == jax.tree.structure(loaded)
    for a, b in zip(
      jax.tree.leaves(made), jax.tree.leaves(loaded), strict=True
    ):
      assert (a.shape, a.dtype) == (b.shape, b.dtype)
