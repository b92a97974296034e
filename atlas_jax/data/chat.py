"""Chat text to token ids and back, one way for sampling and for training.

A prompt is the user's text through the model's own chat template, up to where
the assistant begins. A response is the tokens after it, up to and including
the token that ends the turn. Training examples join the two, so that what is
trained is what will be sampled.

A template is a program and a tokenizer's rules can be one: both may loop for
ever or make gigabytes of a word. So they run in a process of their own, under
the kernel's limits of processor time and memory.
"""

import contextlib
import json
import multiprocessing
import pathlib
import resource
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection

import numpy as np

from atlas_jax import files
from atlas_jax.data.chat_format import ChatError, ChatFormat

_CPU_S = 10  # of processor time for one text
_START_CPU_S = 60  # to import transformers and read the tokenizer
_MEMORY_BYTES = 6 << 30
_LONGEST_ANSWER = 256 << 20  # bytes
_PATIENCE_S = 300.0  # of wall time, for a process that does not even compute
_PROGRAM = (
  "import json, sys; sys.path[:], *given = json.loads(sys.argv[1]);"
  " from atlas_jax.data.chat import serve; serve(*given)"
)


class ChatTokenizer:
  """The tokenizer of one model directory. Threads may share it.

  Attributes:
    stop_ids: tokens that end a turn, those of generation_config.json and the
      tokenizer's own; a sampler must stop at any of them.
    end_id: the one of them that closes a trained response.
    pad_id: a token to fill rows with; it is never trained on.
    vocab_size: ids are below it.
  """

  def __init__(self, path: pathlib.Path, date: str | None):
    self._path = path
    self._lock = threading.Lock()
    self._connection, theirs = multiprocessing.Pipe()
    with theirs:
      given = (sys.path, theirs.fileno(), str(path), date)
      given += (_CPU_S, _MEMORY_BYTES)
      process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(given)],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us
      )
    self._end = weakref.finalize(self, _end, process, self._connection)
    found = self._ask("facts")
    self.vocab_size, self.end_id, self.pad_id, stop_ids = found
    self.stop_ids = tuple(stop_ids)

  @classmethod
  def from_dir(
    cls, path: str | pathlib.Path, date: str | None = None
  ) -> "ChatTokenizer":
    """Reads tokenizer.json, its template, config.json and the like if any.

    Args:
      path: of the model.
      date: YYYY-MM-DD, what a template that asks for the day is told; None:
        what the clock says.

    Raises:
      ChatError: a file is missing or broken, there is no chat template or it
        loses a message, the tokenizer does not fit the model or loses the tags
        of a teaching, nothing ends a turn, or it takes too much.
      FileError: a file of the directory lies outside of it.
    """
    path = pathlib.Path(path)
    files.check_directory(path)
    if not (path / "tokenizer.json").is_file():
      raise ChatError(
        f"{path}: no tokenizer.json there; a model directory needs it beside"
        " config.json"
      )
    return cls(path, date)

  def _ask(self, name: str, *arguments):
    """What the process says; after too much of anything it is no more."""
    with self._lock:
      try:
        self._connection.send_bytes(json.dumps([name, *arguments]).encode())
        if not self._connection.poll(_PATIENCE_S):
          raise TimeoutError
        done, value = json.loads(self._connection.recv_bytes(_LONGEST_ANSWER))
      except (EOFError, OSError):
        status = self._end()
        raise ChatError(
          f"{self._path}: its chat template or tokenizer takes more than"
          f" {_CPU_S} s or {_MEMORY_BYTES >> 30} GiB for one text (the process"
          f" that runs them ended with {status})"
        ) from None
      except BaseException:
        self._end()  # the next question would get this one's answer
        raise
    if not done:
      raise ChatError(value)
    return value

  def encode(self, text: str) -> list[int]:
    """The tokens of plain text, no template and no control tokens."""
    return self._ask("encode", text)

  def prompt_ids(self, user_text: str) -> list[int]:
    """The prompt of a one-turn chat, up to where the assistant begins."""
    return self._ask("prompt_ids", user_text)

  def response_ids(self, text: str) -> list[int]:
    """An assistant's words and the token that ends its turn."""
    return [*self.encode(text), self.end_id]

  def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
    """The text of tokens; control tokens are left out unless `special`."""
    return self._ask("decode", [int(i) for i in ids], special)

  def training_example(
    self, user_text: str, response: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32 [T], mask float32 [T]): 1 on the response and its end."""
    prompt, answer = self.prompt_ids(user_text), self.response_ids(response)
    ids = np.array(prompt + answer, np.int32)
    mask = np.zeros(len(ids), np.float32)
    mask[len(prompt) :] = 1.0
    return ids, mask


def _end(process: subprocess.Popen, connection: Connection) -> int:
  connection.close()
  process.kill()
  return process.wait()


def serve(
  file_descriptor: int, path: str, date: str | None, cpu_s: int, memory: int
) -> None:
  """The life of the process: load, and answer until the pipe closes."""

  def limit(kind: int, most: int):
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))

  def allow(seconds: int):
    limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + seconds)

  limit(resource.RLIMIT_AS, memory)
  limit(resource.RLIMIT_CORE, 0)
  tokenizer = None
  with Connection(file_descriptor) as connection, contextlib.suppress(EOFError):
    while True:
      name, *arguments = json.loads(connection.recv_bytes())
      try:
        if tokenizer is None:
          allow(_START_CPU_S)
          tokenizer = ChatFormat(pathlib.Path(path), date)
        allow(cpu_s)
        answer = (True, getattr(tokenizer, name)(*arguments))
      except Exception as error:
        known = isinstance(error, ChatError)
        what = (
          ""
          if known
          else (
            f"its chat template or tokenizer raised {type(error).__name__}: "
          )
        )
        one_line = " ".join(str(error).split())[:500]
        answer = (False, f"{path}: {what}{one_line}")
      connection.send_bytes(json.dumps(answer).encode())
