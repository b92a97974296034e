"""Runs a tokenizer and its chat template, in the process that chat.py starts.

Either may take for ever. A directory whose training would differ from what it
shows is refused before the first question, in one line:

  1. a template that loses, repeats or moves a message of a chat;
  2. tokens that the model's embedding has no row for;
  3. a tokenizer that does not give back the tags that a reward looks for.
"""

import datetime
import functools
import pathlib
import re

from atlas_jax import files
from atlas_jax.errors import AtlasError

LONGEST_PROMPT = 16 << 20  # characters
# Never control tokens, even if a tokenizer lists them as such: decoded texts
# must show them.
TAGS = tuple(
  f"<{end}{name}>"
  for name in ("teaching", "solution", "answer", "think")
  for end in ("", "/")
)
_QUESTION, _ANSWER = "firstmark", "secondmark"


class ChatError(AtlasError):
  """A tokenizer that cannot be used for chat; the text says why."""


def load_libraries() -> None:
  """Imports what ChatFormat uses; neither of them brings torch."""
  import jinja2.sandbox  # noqa: F401
  from transformers import PreTrainedTokenizerFast  # noqa: F401


class ChatFormat:
  """The tokenizer and template behind a ChatTokenizer; see its methods."""

  def __init__(self, path: pathlib.Path, date: str | None):
    # The fast tokenizer alone: transformers' AutoTokenizer imports torch.
    from transformers import PreTrainedTokenizerFast

    try:
      self._tokenizer = tokenizer = PreTrainedTokenizerFast.from_pretrained(
        str(path), local_files_only=True
      )
    except Exception as error:
      raise ChatError(f"the tokenizer is broken: {error}") from error
    named = tokenizer.chat_template
    if named is None or (isinstance(named, dict) and "default" not in named):
      raise ChatError(
        "no chat template"
        + (f" named default, only {', '.join(named)}" if named else "")
        + "; add chat_template.jinja, or the key chat_template to"
        " tokenizer_config.json"
      )
    added = tokenizer.added_tokens_decoder.items()
    special = {
      i: token.content
      for i, token in added
      if token.special and token.content.strip() not in TAGS
    }
    self._special_ids = frozenset(special)
    longest_first = sorted(special.values(), key=len, reverse=True)
    self._spelled_special = re.compile(
      "|".join(map(re.escape, longest_first)) or "(?!)"
    )
    # A template that does not know it does nothing with it.
    self._options = {"enable_thinking": False}
    if date is not None:
      day = datetime.datetime.fromisoformat(date)
      self._options["strftime_now"] = day.strftime
    self._model_eos, self._rows = _of_model(path)

  @functools.cached_property
  def _template(self) -> tuple[bool, str]:
    """(whether a message's content is a list of parts, the end of a turn).

    Raises:
      ChatError: the template loses a message of a short chat.
    """
    try:
      return False, self._after_answer(in_parts=False)
    except Exception as error:
      try:
        return True, self._after_answer(in_parts=True)
      except Exception:
        raise error from None

  def _after_answer(self, in_parts: bool) -> str:
    messages = [("user", _QUESTION), ("assistant", _ANSWER)]
    prompt = self._render(messages[:1], in_parts, add_generation_prompt=True)
    chat = self._render(messages, in_parts)
    for what, mark, text in (
      ("user's message", _QUESTION, prompt),
      ("user's message before an answer", _QUESTION, chat),
      ("assistant's message", _ANSWER, chat),
    ):
      times = text.count(mark)
      if in_parts and re.search(f"['\"]{mark}['\"]", text):
        times = 0  # the list of parts itself, printed as Python
      if times != 1:
        lost = f"writes it {times} times" if times else "loses or changes it"
        raise ChatError(f"the {what}: its chat template {lost}")
    before, _, after = chat.partition(_QUESTION)
    between, answer, end = after.partition(_ANSWER)
    asked_before, _, asked_after = prompt.partition(_QUESTION)
    # A template without add_generation_prompt: the answer must begin at once.
    if prompt == self._render(messages[:1], in_parts):
      answer = answer if between.strip() == asked_after.strip() else ""
    if not answer or before != asked_before:
      raise ChatError(
        "the assistant's message: its chat template does not begin it after"
        " the user's (add_generation_prompt)"
      )
    return end

  def _check_tags(self) -> None:
    text = "a " + " ".join(f"{tag}b {tag} c" for tag in TAGS)
    back = self.decode(self.encode(text), special=False)
    for tag in TAGS:
      if back.count(tag) != 2:
        raise ChatError(
          f"the tokenizer does not give back {tag}: {text!r} comes back as"
          f" {back!r}"
        )

  def facts(self) -> tuple[int, int, int, list[int]]:
    """(vocab_size, end_id, pad_id, stop_ids), after every check."""
    self._check_tags()
    end_id, pad = self._end_of_turn(), self._tokenizer.pad_token_id
    stop_ids = {end_id, *self._model_eos}
    if self._tokenizer.eos_token_id is not None:
      stop_ids.add(self._tokenizer.eos_token_id)
    pad = end_id if pad is None else pad
    size = 1 + max(*self._tokenizer.get_vocab().values(), pad, *stop_ids)
    if self._rows is not None and size > self._rows:
      raise ChatError(
        f"the tokenizer (with its added tokens, pad and eos) has {size} ids,"
        f" the model's embedding {self._rows} rows (config.json: vocab_size);"
        " valid: at most as many ids as rows"
      )
    return size, end_id, pad, sorted(stop_ids)

  def _end_of_turn(self) -> int:
    """The token that the template writes after an assistant's words."""
    special = self._special_ids | set(self._model_eos)
    ends = [i for i in self._encode(self._template[1]) if i in special]
    if ends:
      return ends[0]
    if self._tokenizer.eos_token_id is not None:
      return self._tokenizer.eos_token_id
    raise ChatError(
      "the tokenizer has no eos_token and its chat template ends no turn:"
      " sampling would never stop"
    )

  def _render(
    self, messages: list[tuple[str, str]], in_parts: bool, **options
  ) -> str:
    chat = [
      {
        "role": role,
        "content": [{"type": "text", "text": text}] if in_parts else text,
      }
      for role, text in messages
    ]
    text = self._tokenizer.apply_chat_template(
      chat, **{**self._options, **options, "tokenize": False}
    )
    if len(text) > LONGEST_PROMPT:
      raise ChatError(
        f"the chat template makes {len(text)} characters of one message;"
        f" valid: at most {LONGEST_PROMPT}"
      )
    return text

  def _encode(self, text: str) -> list[int]:
    return self._tokenizer.encode(text, add_special_tokens=False)

  def _plain(self, text: str) -> str:
    # Words that spell a control token must not become one.
    return self._spelled_special.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)

  def encode(self, text: str) -> list[int]:
    return self._encode(self._plain(text))

  def prompt_ids(
    self, user_text: str, template_kwargs: dict | None = None
  ) -> list[int]:
    plain = self._plain(user_text)
    message = ("user", plain)
    prompt = self._render(
      [message],
      self._template[0],
      **{**(template_kwargs or {}), "add_generation_prompt": True},
    )
    if plain.strip() not in prompt:
      raise ChatError(
        "the user's message: its chat template changes or cuts"
        f" {plain[:80]!r}..."
      )
    return self._encode(prompt)

  def all_prompt_ids(self, asked) -> list[list[int]]:
    return [self.prompt_ids(*one) for one in asked]

  def example(
    self, user_text: str, response: str, template_kwargs: dict | None
  ) -> tuple[list[int], list[int]]:
    """(the prompt, the words of its response)."""
    return self.prompt_ids(user_text, template_kwargs), self.encode(response)

  def decode(self, ids: list[int], special: bool) -> str:
    shown = ids if special else [i for i in ids if i not in self._special_ids]
    return self._tokenizer.decode(
      shown, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def _of_model(path: pathlib.Path) -> tuple[list[int], int | None]:
  """(tokens that end a turn, rows of the embedding), by the model's configs."""
  ends, rows = [], None
  for name in ("config.json", "generation_config.json"):  # the later counts
    if not (path / name).exists():
      continue
    content = files.read_json(path / name, ChatError)
    eos = content.get("eos_token_id")
    ends = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(type(i) is int and 0 <= i < 1 << 31 for i in ends):
      raise ChatError(
        f"{name}: eos_token_id must be token ids, got {str(eos)[:200]!r}"
      )
    of_text = content.get("text_config") or content
    if name == "config.json" and type(of_text.get("vocab_size")) is int:
      rows = of_text["vocab_size"]
  return ends, rows
