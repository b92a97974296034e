"""What comes from a model directory lies in it, and an export is its own."""

import json
import os

import jax.numpy as jnp
import pytest

from atlas_jax.files import FileError
from atlas_jax.model import hf
from tests.model import tiny


@pytest.fixture
def source(tmp_path):
  tiny.save_model(tmp_path / "source", "llama")
  tiny.save_tokenizer(tmp_path / "source")
  return tmp_path / "source"


def export(source, out):
  config, model = hf.load(source, jnp.float32)
  hf.save(
    out,
    model,
    config,
    hf.read_config(source),
    source_dir=source,
    dtype=jnp.dtype("float32"),
  )


@pytest.mark.parametrize(
  "name",
  [
    *("merges.txt", "vocab.json", "tokenizer.json", "chat_template.jinja"),
    *("generation_config.json", "added_tokens.json", "config.json"),
    *("model.safetensors", "special_tokens_map.json", "tokenizer.model"),
  ],
)
def test_a_link_to_a_private_file_is_never_copied(name, source, tmp_path):
  secret = tmp_path / "id_rsa"
  secret.write_text("private")
  config, model = hf.load(source, jnp.float32)
  hf_config = hf.read_config(source)
  (source / name).unlink(missing_ok=True)
  (source / name).symlink_to(secret)
  with pytest.raises(FileError, match=f"{name} is a link to {secret}"):
    hf.read_config(source)
  with pytest.raises(FileError, match=f"{name} is a link to {secret}"):
    hf.save(
      tmp_path / "out",
      model,
      config,
      hf_config,
      source_dir=source,
      dtype=jnp.dtype("float32"),
    )
  assert not list(tmp_path.glob("*out*")) + list(tmp_path.glob(".saving*"))


def test_a_model_in_the_cache_of_hugging_face_is_exported(source, tmp_path):
  home = tmp_path / "models--A--B"
  (home / "blobs").mkdir(parents=True)
  (home / "snapshots" / "01").mkdir(parents=True)
  for file in source.iterdir():
    file.rename(home / "blobs" / f"hash-{file.name}")
    link = home / "snapshots" / "01" / file.name
    link.symlink_to(f"../../blobs/hash-{file.name}")
  export(home / "snapshots" / "01", tmp_path / "out")
  assert (tmp_path / "out" / "tokenizer.json").is_file()
  assert not any(file.is_symlink() for file in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_an_export_is_for_the_umask_to_say(
  mask, mode, source, tmp_path
):
  (source / "tokenizer.json").chmod(0o777)
  before = os.umask(mask)
  try:
    export(source, tmp_path / "out")
  finally:
    os.umask(before)
  found = {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()}
  assert found == {mode}
  assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask


def test_an_export_through_a_link_stays_where_the_link_leads(source, tmp_path):
  (tmp_path / "scratch").mkdir()
  (tmp_path / "out").symlink_to(tmp_path / "scratch")
  for _ in range(2):
    export(source, tmp_path / "out")
  assert (tmp_path / "out").is_symlink()
  assert (tmp_path / "scratch" / "config.json").is_file()


@pytest.mark.parametrize(
  "file",
  [
    *("../other/model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""),
    *("model\0.safetensors", "config.json", 3, None, ["model.safetensors"]),
    "{absolute}",
  ],
)
def test_an_index_names_files_beside_it(file, source, tmp_path):
  tiny.save_model(tmp_path / "other", "llama")
  if file == "{absolute}":
    file = str(tmp_path / "other" / "model.safetensors")
  path = source / "model.safetensors.index.json"
  path.write_text(json.dumps({"weight_map": {"model.norm.weight": file}}))
  with pytest.raises(hf.WeightsError) as error:
    hf.load(source, jnp.float32)
  text = str(error.value)
  assert text.startswith(str(path)) and "\n" not in text
  assert "model.norm.weight" in text or "u0000" in text


@pytest.mark.parametrize(
  ("text", "why"),
  [
    ("[" * 100_000, "recursion"),
    ("[]", "an object"),
    ("{}", "weight_map"),
    ('{"weight_map": []}', "weight_map"),
    ("{", "not valid JSON"),
  ],
)
def test_an_index_that_is_none(text, why, source):
  (source / "model.safetensors.index.json").write_text(text)
  with pytest.raises(hf.WeightsError, match=why):
    hf.load(source, jnp.float32)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_is_no_model(name, source):
  (source / name).unlink()
  os.mkfifo(source / name)
  with pytest.raises(FileError, match=f"{name} is neither"):
    hf.load(source, jnp.float32)


def test_a_directory_of_that_name_is_no_file(source):
  (source / "model.safetensors").unlink()
  (source / "model.safetensors").mkdir()
  with pytest.raises(
    hf.WeightsError, match=r"model\.safetensors cannot be read"
  ):
    hf.check(source)
