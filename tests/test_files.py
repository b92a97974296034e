"""What a stranger may have made of a file: one line that names it."""

import json
import os

import pytest

from atlas_jax import files
from atlas_jax.files import FileError
from tests.hub_cache import LFS_POINTER


def one_line(error, path) -> str:
  text = str(error.value)
  assert "\n" not in text and str(path) in text
  return text


def fifo(path):
  os.mkfifo(path)


def device(path):
  path.symlink_to("/dev/zero")


def folder(path):
  path.mkdir()


def loop(path):
  path.symlink_to(path)


@pytest.mark.parametrize("make", [fifo, device, folder, loop])
@pytest.mark.parametrize(
  "use", [files.read, files.read_json, lambda path: list(files.lines(path))]
)
def test_what_is_no_file_is_refused_at_once(make, use, tmp_path):
  path = tmp_path / "data"
  make(path)
  with pytest.raises(FileError, match="cannot be read") as error:
    use(path)
  one_line(error, path)


def test_a_path_that_there_cannot_be():
  with pytest.raises(FileError, match="null byte"):
    files.read("a\0b")
  with pytest.raises(FileError, match="No such file"):
    files.read("/nowhere/at/all")
  # A regular file, of which no byte can be read: as on a disk that fails.
  for use in (files.read, lambda path: list(files.lines(path))):
    with pytest.raises(FileError, match="mem cannot be read: Input/output"):
      use("/proc/self/mem")


def test_a_pointer_of_git_lfs_is_not_the_file(tmp_path):
  path = tmp_path / "data.jsonl"
  path.write_text(LFS_POINTER)
  for use in (files.read, lambda path: list(files.lines(path))):
    with pytest.raises(FileError, match="a pointer of Git LFS; `git lfs pull`"):
      use(path)
  files.check_directory(tmp_path)  # one that nobody reads
  path.write_bytes(b"version")
  assert files.read(path) == b"version"


def test_the_error_is_the_callers(tmp_path):
  with pytest.raises(KeyError):
    files.read_json(tmp_path, KeyError)


def test_a_file_and_a_line_have_a_bound(tmp_path):
  path = tmp_path / "sparse"
  with path.open("wb") as file:
    file.write(b'{"a": 1}\n')
    file.truncate(1 << 40)  # takes no space
  with pytest.raises(FileError, match="more than 128 MiB"):
    files.read(path)
  found = files.lines(path)
  assert next(found) == (f"{path}:1", b'{"a": 1}\n')
  with pytest.raises(FileError, match=r"sparse:2: a line of more than 16"):
    next(found)


def test_lines_end_where_they_should(tmp_path):
  path = tmp_path / "data"
  path.write_bytes(b"a\r\n\n\xe2\x80\xa8b")
  assert [line for _, line in files.lines(path)] == [
    *(b"a\r\n", b"\n", b"\xe2\x80\xa8b")
  ]


@pytest.mark.parametrize(
  ("data", "why"),
  [
    (b"[" * 100_000, "recursion|levels deep"),
    (b"[" * 65 + b"]" * 65, "more than 64 levels deep"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "more than 64 levels deep"),
    (b'{"a": "\\ud800"}', "half a surrogate pair"),
    (b'{"a": [{"\\uDFFF": 1}]}', "half a surrogate pair"),
    (b'{"a": "\\u0000"}', "u0000"),
    (b'{"a": "\0"}', "Invalid control character"),
    (b"\xff\xfe{\0}\0", "utf-8"),
    (b"9" * 5000, "4300"),
    (b"", "Expecting value"),
  ],
)
def test_json_that_cannot_be_sent_on(data, why, tmp_path):
  with pytest.raises(FileError, match=why) as error:
    files.parse(data, "FILE:3")
  assert one_line(error, "FILE:3").startswith("FILE:3: not valid JSON: ")


@pytest.mark.parametrize(
  ("data", "value"),
  [
    (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
    (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    (b"[" * 64 + b"]" * 64, json.loads("[" * 64 + "]" * 64)),
    (b"[" + b"[]," * 999 + b"[]]", [[]] * 1000),
  ],
)
def test_json_that_is_fine(data, value):
  assert files.parse(data, "x") == value


def test_a_new_file_follows_no_link(tmp_path):
  outside = tmp_path / "outside"
  outside.write_text("mine")
  run = tmp_path / "run"
  run.mkdir()
  for name in ("a.json", "a.json.partial"):
    (run / name).symlink_to(outside)
  with files.replacing(run / "a.json") as file:
    file.write(b"new")
  assert outside.read_text() == "mine"
  assert (run / "a.json").read_text() == "new"
  assert not (run / "a.json").is_symlink()
  os.link(outside, run / "b.json.partial")
  with files.replacing(run / "b.json") as file:
    file.write(b"new")
  assert outside.read_text() == "mine"


def test_a_failed_write_leaves_the_old_file(tmp_path):
  (tmp_path / "a").write_text("old")
  with pytest.raises(KeyError), files.replacing(tmp_path / "a") as file:
    file.write(b"half")
    raise KeyError
  assert (tmp_path / "a").read_text() == "old"


def model_and_secret(tmp_path):
  model = tmp_path / "model"
  model.mkdir()
  (tmp_path / "secret").write_text("sk-private")
  return model, tmp_path / "secret"


@pytest.mark.parametrize(
  "make",
  [
    lambda path, secret: path.symlink_to(secret),
    lambda path, secret: path.symlink_to("../secret"),
    lambda path, secret: path.symlink_to("/proc/self/environ"),
    lambda path, secret: path.symlink_to("../not-there-yet"),
    lambda path, secret: path.symlink_to("missing"),
    lambda path, secret: path.hardlink_to(secret),
    lambda path, secret: path.symlink_to(path),
    lambda path, secret: os.mkfifo(path),
  ],
)
def test_what_lies_elsewhere_is_refused_by_name(make, tmp_path):
  model, secret = model_and_secret(tmp_path)
  files.check_directory(model)
  make(model / "merges.txt", secret)
  with pytest.raises((FileError, OSError)) as error:
    files.check_directory(model)
  assert isinstance(error.value, FileError)
  one_line(error, model / "merges.txt")


def test_a_folder_that_leads_out_is_refused(tmp_path):
  model, _ = model_and_secret(tmp_path)
  (model / "additional_chat_templates").symlink_to(tmp_path)
  with pytest.raises(FileError, match="additional_chat_templates is a link"):
    files.check_directory(model)


def test_links_within_and_those_of_a_cache_are_fine(tmp_path):
  home = tmp_path / "hub" / "models--A--B"
  model = home / "snapshots" / "0123"
  model.mkdir(parents=True)
  (home / "blobs").mkdir()
  (home / "blobs" / "abc").write_text("{}")
  (model / "config.json").symlink_to("../../blobs/abc")
  (model / "model.safetensors").write_bytes(b"")
  (home / "blobs" / "weights").hardlink_to(model / "model.safetensors")
  (model / "copy.json").symlink_to("config.json")
  (model / ".git").symlink_to("/")  # hidden: nobody reads it
  files.check_directory(model)
  (tmp_path / "link").symlink_to(model)
  files.check_directory(tmp_path / "link")
  # What a blob leads to counts, and so does what the blobs are.
  (tmp_path / "secret").write_text("x")
  (home / "blobs" / "bad").symlink_to(tmp_path / "secret")
  (model / "merges.txt").symlink_to("../../blobs/bad")
  with pytest.raises(FileError, match=r"merges\.txt is a link to .*secret"):
    files.check_directory(model)


@pytest.mark.parametrize(
  ("value", "wrong"),
  [
    ({"a": [{"b": None}], "more": 1}, None),
    ({}, "it has no a"),
    ([], "it is []"),
    ({"a": []}, "a is empty"),
    ({"a": [{"b": 1}, {}]}, "an item of a has no b"),
    ({"a": [{"b": "x"}]}, 'b is "x"'),
  ],
)
def test_what_has_another_shape_is_named(value, wrong):
  assert files.misfit(value, {"a": [{"b": int | None}]}) == wrong
