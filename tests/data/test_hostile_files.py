"""Data files that a stranger made: one line that names the file, at once."""

import os

import pyarrow
import pytest
from pyarrow import parquet

from atlas_jax.config import DataConfig
from atlas_jax.data import sources
from atlas_jax.data import splits as splits_lib
from atlas_jax.data.problems import DataError
from tests.hostile_server import Hostile


@pytest.mark.parametrize("source", ["jsonl", "arc_rl", "gsm8k"])
@pytest.mark.parametrize(
  ("line", "why"),
  [
    (b"[" * 100_000, "recursion"),
    (b'{"question": ' + b"[" * 70 + b"]" * 70 + b"}", "64 levels"),
    (b'{"question": "\\ud800", "answer": "1"}', "half a surrogate"),
    (b'{"question": "\\u0000", "answer": "1"}', "u0000"),
    (b"\xff\xfe", "utf-8"),
    (b"x" * ((16 << 20) + 1), "more than 16 MiB"),
    (b'"text"', "expected an object"),
  ],
)
def test_a_hostile_line_names_file_and_line(tmp_path, source, line, why):
  path = tmp_path / "data.jsonl"
  path.write_bytes(b"\n\n" + line + b"\n")
  with pytest.raises(DataError, match=why) as error:
    sources.read(DataConfig(source=source, path=str(path)))
  assert str(error.value).startswith(f"{path}:3: ")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("sft", ["arc_sft", "episodes"])
def test_examples_are_read_by_the_same_reader(tmp_path, sft):
  path = tmp_path / "sft.jsonl"
  os.mkfifo(path)
  config = DataConfig(sft_source=sft, sft_path=str(path))
  with pytest.raises(DataError, match=r"sft\.jsonl cannot be read: a pipe"):
    splits_lib.load_sft(config)
  path.unlink()
  path.write_bytes(b'{"question": "\\udfff"}\n')
  with pytest.raises(DataError, match=r"sft\.jsonl:1: .*half a surrogate"):
    splits_lib.load_sft(config)


@pytest.mark.parametrize(
  ("make", "why"),
  [
    (lambda path: os.mkfifo(path), "a pipe or device"),
    (lambda path: path.mkdir(), "any data files"),
    (lambda path: path.symlink_to("/dev/zero"), "a pipe or device"),
    (lambda path: path.symlink_to(path), "symbolic links"),
  ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, make, why):
  for name in ("data.jsonl", "data.parquet", "data.csv", "data.json"):
    make(tmp_path / name)
    config = DataConfig(source="jsonl", path=str(tmp_path / name))
    with pytest.raises(DataError, match=why) as error:
      sources.read(config)
    assert f"{name} cannot be read" in str(error.value)


def test_a_name_is_no_address_and_memory_no_file():
  for path in ("s3://bucket/a.parquet", "http://127.0.0.1:9/a.parquet"):
    with pytest.raises(DataError, match="No such file"):
      sources.read(DataConfig(source="jsonl", path=path))
  with pytest.raises(DataError, match="mem cannot be read: Input/output"):
    sources.read(DataConfig(source="jsonl", path="/proc/self/mem"))


def test_a_cell_of_parquet_has_the_bound_of_a_line(tmp_path):
  cell = "a" * ((16 << 20) + 1)
  table = pyarrow.table({"question": [cell], "answer": ["1"]})
  parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
  with pytest.raises(DataError, match=r"a.parquet\[0\]: .*more than 16 MiB"):
    sources.read(DataConfig(source="jsonl", path=str(tmp_path / "a.parquet")))


def test_a_card_without_an_end_is_one_line(tmp_path):
  path = tmp_path / "README.md"
  (tmp_path / "train.jsonl").write_text('{"question": "q", "answer": "1"}')
  for broken in ("[" * 5000, "a: [", "\x00", "a: *b"):
    path.write_text(f"---\n{broken}\n---\n")
    with pytest.raises(DataError) as error:
      sources.read(DataConfig(source="jsonl", path=str(tmp_path)))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
  "card",
  [
    "configs:\n- config_name: default\n  data_files: URL",
    "configs:\n- config_name: a\n  data_files: [{split: train, path: URL}]",
    'a: &a ["URL"]\nconfigs:\n- {config_name: a, "data_files": *a}',
    "configs:\n- config_name: default\n  data_dir: URL",
    "configs:\n- config_name: default\n  data_files: zip://x::URL",
    "a: b---c\nconfigs:\n- config_name: default\n  data_files: URL",
  ],
)
def test_a_card_sends_nobody_to_another_machine(tmp_path, name, card):
  """And what is written elsewhere in it may name addresses."""
  plain = "license_link: http://127.0.0.1/\n"
  with Hostile() as stranger:
    text = plain + card.replace("URL", f"{stranger.url}/a.jsonl")
    if name == "README.md":
      text = f"---\n{text}\n---\nSee http://127.0.0.1/\n"
    (tmp_path / name).write_text(text)
    (tmp_path / "train.jsonl").write_text('{"question": "q", "answer": "1"}')
    config = DataConfig(source="jsonl", path=str(tmp_path))
    with pytest.raises(DataError, match="is no file beside it") as error:
      sources.read(config)
    assert "\n" not in str(error.value) and name in str(error.value)
  assert stranger.requests == []
  (tmp_path / name).write_text(f"---\n{plain}")
  assert len(sources.read(config)) == 1


def test_a_byte_order_mark_is_none_of_the_text(tmp_path):
  path = tmp_path / "data.jsonl"
  path.write_text('\ufeff{"question": "q", "answer": "1"}\n')
  (problem,) = sources.read(DataConfig(source="jsonl", path=str(path)))
  assert problem.question == "q"
