"""Turns chat text into token ids and back, for sampling and for training.

A prompt is the user's text through the model's own chat template, up to where
the assistant begins. A response is the tokens after it, up to and including
the token that ends the turn. Training examples join the two, so that SFT
trains the same tokens that will be sampled.

A template is a program and a tokenizer's rules can be one: both may loop for
ever or make gigabytes of a word. So they run in a process of their own, which
is locked, under the kernel's limits of processor time and memory.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from atlas_jax import confined, files
from atlas_jax.data import chat_format
from atlas_jax.data.chat_format import ChatError, ChatFormat

_CPU_S = 10  # of processor time for one text
_START_CPU_S = 60  # to import transformers and read the tokenizer
_MEMORY_BYTES = confined.MEMORY_BYTES
_LONGEST_ANSWER = 256 << 20  # bytes
_WALL_S = 300.0  # for a process that uses no processor time
_READ = (
  *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
  *("special_tokens_map.json", "added_tokens.json"),
)


class ChatTokenizer:
  """The tokenizer and chat template of a model directory, safe for threads.

  Attributes:
    stop_ids: tokens that end a turn, those of generation_config.json and the
      tokenizer's own; a sampler must stop at any of them.
    end_id: the one of them that closes a trained response.
    pad_id: a token to fill rows with; it is never trained on.
    vocab_size: ids are below it.
  """

  def __init__(self, path: pathlib.Path, date: str | None):
    self._given = (path, date)
    self._process = confined.Confined(
      chat_format.load_libraries,
      memory_bytes=_MEMORY_BYTES,
      answer_bytes=_LONGEST_ANSWER,
    )
    self._ask("encode", "", cpu_s=_START_CPU_S)  # the template does not run
    self._process.lock(cpu_s=_CPU_S, wall_s=_WALL_S)
    found = self._ask("facts")
    self.vocab_size, self.end_id, self.pad_id, stop_ids = found
    self.stop_ids = tuple(stop_ids)

  @classmethod
  def from_dir(
    cls, path: str | pathlib.Path, date: str | None = None
  ) -> "ChatTokenizer":
    """Reads tokenizer.json, the chat template and the configs of a model.

    Args:
      path: of the model.
      date: YYYY-MM-DD, for a template that asks for the day; None: today.

    Raises:
      ChatError: a file is missing or broken, there is no chat template or it
        loses a message, the tokenizer does not fit the model or loses the tags
        of a teaching, nothing ends a turn, or it takes too much.
      FileError: a file of the directory lies outside of it.
    """
    path = pathlib.Path(path)
    files.check_directory(path)
    if not (path / "tokenizer.json").is_file():
      raise ChatError(f"{path}: no tokenizer.json there, beside config.json")
    for file in (path / name for name in _READ):
      if file.exists():
        files.check_file(file, ChatError)
    return cls(path, date)

  def _ask(self, name: str, *arguments, cpu_s: float | None = None):
    try:
      return self._process.call(
        _answer,
        *(*self._given, name, *arguments),
        cpu_s=cpu_s or _CPU_S,
        wall_s=_WALL_S,
      )
    except confined.Unanswered as error:
      text = f"its chat template or tokenizer {error}"
      if error.args[0] == ChatError.__name__:
        text = error.args[1]
      raise ChatError(f"{self._given[0]}: {text}") from None

  def encode(self, text: str) -> list[int]:
    """The tokens of plain text, no template and no control tokens."""
    return self._ask("encode", text)

  def prompt_ids(
    self, user_text: str, template_kwargs: Mapping | None = None
  ) -> list[int]:
    """The prompt of a one-turn chat, up to where the assistant begins.

    template_kwargs are arguments of the chat template; a template that knows
    enable_thinking gets False unless they say otherwise.
    """
    return self._ask("prompt_ids", user_text, template_kwargs)

  def all_prompt_ids(
    self, asked: Sequence[tuple[str, Mapping | None]]
  ) -> list[list[int]]:
    """prompt_ids of each: several short texts cost little more than one."""
    return self._ask("all_prompt_ids", asked)

  def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
    """The text of tokens; control tokens are left out unless `special`."""
    return self._ask("decode", [int(i) for i in ids], special)

  def training_example(
    self, user_text: str, response: str, template_kwargs: Mapping | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32 [T], mask float32 [T]): 1 on the response and its end."""
    prompt, answer = self._ask("example", user_text, response, template_kwargs)
    ids = np.array([*prompt, *answer, self.end_id], np.int32)
    mask = np.zeros(len(ids), np.float32)
    mask[len(prompt) :] = 1.0
    return ids, mask


_format = functools.cache(ChatFormat)  # read once in its process


def _answer(path: pathlib.Path, date: str | None, name: str, *arguments):
  return getattr(_format(path, date), name)(*arguments)
