"""Chat text to token ids and back, one way for sampling and for training.

A prompt is the user's text through the model's own chat template, up to where
the assistant begins. A response is the tokens after it, up to and including
the token that ends the turn. Training examples join the two, so that what is
trained is what will be sampled.
"""

import json
import pathlib
import re
from collections.abc import Sequence

import numpy as np


class ChatError(ValueError):
  """A tokenizer cannot be used for chat; the text says what is missing."""


class ChatTokenizer:
  """The tokenizer of one model directory.

  Attributes:
    stop_ids: tokens that end a turn, those of generation_config.json and the
      tokenizer's own; a sampler must stop at any of them.
    end_id: the one of them that closes a trained response.
    pad_id: a token to fill rows with; it is never trained on.
    vocab_size: ids are below it.
  """

  def __init__(self, tokenizer, *, generation_eos: Sequence[int] = ()):
    self._tokenizer = tokenizer
    if tokenizer.chat_template is None:
      raise ChatError(
        f"the tokenizer of {tokenizer.name_or_path} has no chat template;"
        " add chat_template.jinja, or the key chat_template to"
        " tokenizer_config.json"
      )
    added = tokenizer.added_tokens_decoder.items()
    special = {i: token.content for i, token in added if token.special}
    self._special_ids = frozenset(special)
    longest_first = sorted(special.values(), key=len, reverse=True)
    self._spelled_special = re.compile(
      "|".join(map(re.escape, longest_first)) or "(?!)"
    )
    self.vocab_size = len(tokenizer)
    self.end_id = self._end_of_turn(generation_eos)
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    self.stop_ids = tuple(sorted({self.end_id, *generation_eos, *own}))
    pad = tokenizer.pad_token_id
    self.pad_id = self.end_id if pad is None else pad

  @classmethod
  def from_dir(cls, path: str | pathlib.Path) -> "ChatTokenizer":
    """Reads tokenizer.json, its template, and generation_config.json if any.

    Raises:
      ChatError: a file is missing or broken, there is no chat template, or
        nothing says which token ends a turn.
    """
    # The fast tokenizer alone: transformers' AutoTokenizer imports torch.
    from transformers import PreTrainedTokenizerFast

    path = pathlib.Path(path)
    if not (path / "tokenizer.json").is_file():
      raise ChatError(
        f"{path}: no tokenizer.json there; a model directory needs it beside"
        " config.json"
      )
    try:
      tokenizer = PreTrainedTokenizerFast.from_pretrained(
        str(path), local_files_only=True
      )
    except Exception as error:
      raise ChatError(f"{path}: the tokenizer is broken: {error}") from error
    eos = None
    config = path / "generation_config.json"
    if config.is_file():
      try:
        values = json.loads(config.read_text(encoding="utf-8"))
      except ValueError as error:
        raise ChatError(f"{config}: not valid JSON: {error}") from None
      eos = values.get("eos_token_id")
    if eos is None:
      eos = ()
    return cls(tokenizer, generation_eos=[eos] if isinstance(eos, int) else eos)

  def _end_of_turn(self, generation_eos: Sequence[int]) -> int:
    """The token that the template writes after an assistant's words."""
    mark = "endmark"
    text = self._tokenizer.apply_chat_template(
      [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": mark},
      ],
      tokenize=False,
    )
    after = text.rpartition(mark)[2]
    special = self._special_ids | set(generation_eos)
    ends = [i for i in self._encode(after) if i in special]
    if ends:
      return ends[0]
    if self._tokenizer.eos_token_id is not None:
      return self._tokenizer.eos_token_id
    raise ChatError(
      f"the tokenizer of {self._tokenizer.name_or_path} has no eos_token and"
      " its chat template ends no turn: sampling would never stop"
    )

  def _encode(self, text: str) -> list[int]:
    return self._tokenizer.encode(text, add_special_tokens=False)

  def _plain(self, text: str) -> str:
    # Words that spell a control token must not become one.
    return self._spelled_special.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)

  def encode(self, text: str) -> list[int]:
    """The tokens of plain text, no template and no control tokens."""
    return self._encode(self._plain(text))

  def prompt_ids(self, user_text: str) -> list[int]:
    """The prompt of a one-turn chat, up to where the assistant begins."""
    text = self._tokenizer.apply_chat_template(
      [{"role": "user", "content": self._plain(user_text)}],
      tokenize=False,
      add_generation_prompt=True,
    )
    return self._encode(text)

  def response_ids(self, text: str) -> list[int]:
    """An assistant's words and the token that ends its turn."""
    return [*self.encode(text), self.end_id]

  def decode(self, ids: Sequence[int]) -> str:
    """The text of tokens, control tokens left out."""
    return self._tokenizer.decode(
      [int(i) for i in ids],
      skip_special_tokens=True,
      clean_up_tokenization_spaces=False,
    )

  def training_example(
    self, user_text: str, response: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32 [T], mask float32 [T]): 1 on the response and its end."""
    prompt, answer = self.prompt_ids(user_text), self.response_ids(response)
    ids = np.array(prompt + answer, np.int32)
    mask = np.zeros(len(ids), np.float32)
    mask[len(prompt) :] = 1.0
    return ids, mask
