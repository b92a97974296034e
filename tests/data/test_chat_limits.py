"""A chat template or a tokenizer that would hang or burst: one line."""

import gc
import json
import os
import pathlib
import platform
import re
import threading

import pytest

from atlas_jax import seccomp
from atlas_jax.data import chat as chat_lib
from atlas_jax.data import chat_format
from atlas_jax.data.chat import ChatError, ChatTokenizer
from atlas_jax.files import FileError
from tests.chat_model import TEMPLATE, write_tokenizer

LOOPS = (
  "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
  "{% endfor %}"
)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
  monkeypatch.setattr(chat_lib, "_CPU_S", 1)
  monkeypatch.setattr(chat_lib, "_MEMORY_BYTES", 2 << 30)


def refusal(use) -> str:
  with pytest.raises(ChatError) as error:
    use()
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize(
  ("bomb", "why"),
  [
    (LOOPS, "takes more than 1 s or 2 GiB"),
    ("{{ 'a' * 20000000 }}", "makes 200000.. characters of one message"),
    (
      "{% for i in range(9999) %}{{ 'a' * 2000 }}{% endfor %}",
      "makes 199980.. characters",
    ),
    ("{{ ('a' * 10**10) | length }}", "MemoryError"),
    ("{{ 'a'.center(10**10) }}", "MemoryError"),
    ("{{ '%*d' % (9999999999, 1) }}", "Error"),
    ("{{ (9 ** (9 ** 9)) | string }}", "takes more than|Error"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    ("{{ raise_exception('x' * 100000) }}", "TemplateError: x{500}$"),
    ("{% for %}", "TemplateSyntaxError"),
  ],
)
def test_a_template_that_is_a_bomb(bomb, why, tmp_path):
  path = write_tokenizer(tmp_path, template=bomb + TEMPLATE)
  text = refusal(lambda: ChatTokenizer.from_dir(path))
  assert text.startswith(str(path))
  assert re.search(why, text), text


def test_a_bomb_that_waits_for_its_text(tmp_path):
  bomb = "{% if 'boom' in messages[0].content %}" + LOOPS + "{% endif %}"
  chat = ChatTokenizer.from_dir(
    write_tokenizer(tmp_path, template=bomb + TEMPLATE)
  )
  assert chat.prompt_ids("fine")
  assert "takes more than" in refusal(lambda: chat.prompt_ids("boom"))
  # Its process is gone, and nothing else answers in its place.
  assert "takes more than" in refusal(lambda: chat.prompt_ids("fine"))


@pytest.mark.parametrize("at", ["normalizer", "decoder"])
def test_rules_of_a_tokenizer_that_multiply_a_text(at, tmp_path):
  path = write_tokenizer(tmp_path)
  content = json.loads((path / "tokenizer.json").read_text())
  rule = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 2000}
  key = {"normalizer": "normalizers", "decoder": "decoders"}[at]
  content[at] = {"type": "Sequence", key: [rule] * 4}
  (path / "tokenizer.json").write_text(json.dumps(content))
  whole = "aaaa carry"

  def use():
    chat = ChatTokenizer.from_dir(path)
    chat.decode(chat.encode(whole))

  assert "takes more than" in refusal(use)


def test_threads_get_their_own_answers(tmp_path):
  chat = ChatTokenizer.from_dir(write_tokenizer(tmp_path))
  wrong = []

  def ask(word):
    for _ in range(50):
      if chat.decode(chat.encode(word)) != word:
        wrong.append(word)

  threads = [threading.Thread(target=ask, args=(w,)) for w in ("one", "two")]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def test_an_interrupted_question_leaves_no_answer_for_the_next(
  tmp_path, monkeypatch
):
  chat = ChatTokenizer.from_dir(write_tokenizer(tmp_path))

  class Interrupted:
    def __getattr__(self, name):
      return getattr(connection, name)

    def recv(self, _):
      raise KeyboardInterrupt

  process = chat._process
  connection, process._connection = process._connection, Interrupted()
  with pytest.raises(KeyboardInterrupt):
    chat.encode("one")
  process._connection = connection
  refusal(lambda: chat.encode("two"))


@pytest.mark.skipif(
  platform.machine() not in seccomp._MACHINES, reason="no list of system calls"
)
def test_a_template_runs_in_a_locked_process(tmp_path):
  chat = ChatTokenizer.from_dir(write_tokenizer(tmp_path))
  pid = chat._process.pid
  status = pathlib.Path(f"/proc/{pid}/status").read_text()
  assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
  assert chat.decode(chat.encode("carry")) == "carry"


def test_the_process_ends_with_its_tokenizer(tmp_path):
  chat = ChatTokenizer.from_dir(write_tokenizer(tmp_path))
  end = chat._process.end
  assert end.alive
  process = chat._process._process
  assert not process.ended()
  del chat
  gc.collect()
  assert not end.alive
  state = pathlib.Path(f"/proc/{process.pid}/stat")
  assert not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize(
  "name",
  [
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("generation_config.json", "added_tokens.json", "merges.txt"),
  ],
)
def test_a_file_that_lies_elsewhere_or_is_none(name, tmp_path):
  path = write_tokenizer(tmp_path / "model")
  (path / name).unlink(missing_ok=True)
  (tmp_path / "secret").write_text("{{ 'sk-private' }}")
  (path / name).symlink_to(tmp_path / "secret")
  with pytest.raises(FileError, match=f"{name} is a link"):
    ChatTokenizer.from_dir(path)
  (path / name).unlink()
  os.mkfifo(path / name)
  with pytest.raises(FileError, match=f"{name} is neither"):
    ChatTokenizer.from_dir(path)


@pytest.mark.parametrize(
  ("text", "why"),
  [
    ("[" * 100_000, "recursion"),
    ("[]", "an object"),
    ('{"eos_token_id": "x"}', "eos_token_id must be"),
    ('{"eos_token_id": [-1]}', "eos_token_id must be"),
    ('{"eos_token_id": true}', "eos_token_id must be"),
    ('{"eos_token_id": 1e400}', "eos_token_id must be"),
  ],
)
def test_a_generation_config_that_is_none(text, why, tmp_path):
  path = tmp_path / "generation_config.json"
  path.write_text(text)
  assert why in refusal(lambda: chat_format._of_model(tmp_path))
