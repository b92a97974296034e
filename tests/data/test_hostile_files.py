"""Data files that a stranger made: one line that names the file, at once."""

import os

import pytest

from atlas_jax.config import DataConfig
from atlas_jax.data import sources
from atlas_jax.data import splits as splits_lib
from atlas_jax.data.problems import DataError


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
  make(tmp_path / "data.jsonl")
  config = DataConfig(source="jsonl", path=str(tmp_path / "data.jsonl"))
  with pytest.raises(DataError, match=why) as error:
    sources.read(config)
  assert "data.jsonl cannot be read" in str(error.value)


def test_a_byte_order_mark_is_none_of_the_text(tmp_path):
  path = tmp_path / "data.jsonl"
  path.write_text('\ufeff{"question": "q", "answer": "1"}\n')
  (problem,) = sources.read(DataConfig(source="jsonl", path=str(path)))
  assert problem.question == "q"
