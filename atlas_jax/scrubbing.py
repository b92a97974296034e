"""Masks keys in every text that is saved, logged or shown.

A text is searched as it is, and with up to three layers of escapes taken away
(URL, JSON, Python, HTML, UTF-16, a line broken in two), for each secret, its
hexadecimal form, and its base64, also within a longer one, where it begins at
any of three alignments.
"""

import base64
import bisect
import html
import operator
import os.path
import re
from collections.abc import Callable, Iterator, Mapping

from atlas_jax.secret_names import SCHEME, is_secret

_NAMES = re.compile(
  r"KEY|TOKEN(?!IZER)|SECRET|PASS(W|PHRASE|CODE)|CRED(S|ENTIAL)|JWT|BEARER"
  r"|COOKIE|WEBHOOK|CONN\w*STR|MNEMONIC|SEED_PHRASE|_PWD?$"
  r"|(^|_)(PAT|PASS|SAS|O?AUTH2?(ORI[SZ]ATION|_CONFIG)?)$",
  re.IGNORECASE,
)
_USER = re.compile(r"://([^/?#\s]*)@")
_PASSWORD = re.compile(r"(://[^/?#\s:]*:)[^/?#\s]*@")
# NAME=VALUE, JSON, and headers. A password may hold what ends another one.
_PAIRS = [
  re.compile(
    r"""(?<![\w.-])([\w.-]++)["']?\s*(?:=|:(?!//))\s*["']?"""
    rf"{SCHEME}([^{ends}]+)"
  )
  for ends in (r"&;\s", r"&;\s,\"'}", r"\"'")
]
# A shorter value is a setting (false, a port), and occurs in honest answers.
_SHORTEST = 8  # characters
_MASK = "***"
_LONGEST_LINE, _LONGEST_ERROR = 600, 10_000  # characters
_MOST_SEARCHED = 1 << 20  # characters of an error
_LAYERS = 3
# Each kind of escape begins with one letter: most of a text is passed over.
_ESCAPE = re.compile(
  r"(?:%(?:u00)?|\\(?:x|u00|U0{6}|u\{)|=(?=[0-9A-F]{2}))([0-9a-fA-F]{2})\}?"
  r"|\\([0-3][0-7]{2})|\\(.)|&(#?\w{2,8};?)|\r[\n \t]*|\n[ \t]*|\0"
)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}
# Every 4th place of a text is looked up: 8 characters hold one such 5 whole.
_STEP, _GRAM = 4, 5
# Characters searched at a time, since escapes take a hundred times their size
# in memory; and of a secret with its escapes, which may span two windows.
_WINDOW, _LONGEST_FORM = 1 << 17, 1 << 15


def scrubber(environ: Mapping[str, str], *own: str | None) -> Callable:
  """A function that masks secrets in an error or a line of a log.

  Args:
    environ: values of variables whose names sound secret are masked, and
      passwords in URLs, wherever they stand.
    own: further secrets, of any length; None and "" are passed over.
  """
  long = answer_scrubber(environ, *own)
  short = [v for v in own if v and v.strip() and len(v) < _SHORTEST]

  def scrub(text: str) -> str:
    for value in short:
      text = text.replace(value, _MASK)
    return long(text)

  return scrub


def answer_scrubber(environ: Mapping[str, str], *own: str | None) -> Callable:
  """As `scrubber`, for answers: masks no text too short to be a secret."""
  values = {value.strip() for value in own if value}
  for variable in environ.items():
    values.update(map(str.strip, _in_variable(*variable)))
  secrets = (value for value in values if len(value) >= _SHORTEST)
  grams: dict[str, list[tuple[int, str]]] = {}
  for form in {form for secret in secrets for form in _forms(secret)}:
    # Its end, since many secrets have the same beginning.
    for at in range(len(form) - _GRAM, len(form) - _GRAM - _STEP, -1):
      grams.setdefault(form[at : at + _GRAM], []).append((at, form))

  def spans_in(text: str) -> Iterator[tuple[int, int]]:
    layers = []
    while True:
      for start, end in _found(text, grams):
        for runs in reversed(layers):
          start, end = _outside(start, runs), _outside(end, runs)
        yield start, end
      if len(layers) == _LAYERS or not _ESCAPE.search(text.rstrip()):
        return
      text, runs = _unescaped(text)
      layers.append(runs)

  def scrub(text: str) -> str:
    spans = []
    for at in range(0, len(text) if grams else 0, _WINDOW):
      window = text[at : at + _WINDOW + _LONGEST_FORM]
      spans += [(at + start, at + end) for start, end in spans_in(window)]
    return _masked(text, spans)

  return scrub


def error_line(scrub: Callable[[str], str], text: str) -> str:
  """The beginning of an error's text as one line."""
  return " ".join(error_text(scrub, text).split())[:_LONGEST_LINE]


def error_text(scrub: Callable[[str], str], text: str) -> str:
  """The beginning of an error's text, masked before it is cut.

  Passwords in addresses are masked, too. This is the one place that cuts an
  error. Far more is searched than is kept: a secret that the first cut halves
  lies beyond the part that is kept.
  """
  text = text[:_MOST_SEARCHED].encode(errors="backslashreplace").decode()
  return _PASSWORD.sub(rf"\1{_MASK}@", scrub(text))[:_LONGEST_ERROR]


def _in_variable(name: str, value: str) -> Iterator[str]:
  """The secrets in a variable; the path of a file with one is none."""
  is_place = os.path.isabs(value) and os.path.exists(value)
  if _NAMES.search(name) and not is_place:
    yield from (value, re.sub(f"^{SCHEME}", "", value))
  for user in _USER.findall(value):
    if ":" in user or len(user) > 2 * _SHORTEST:
      yield user.partition(":")[2] or user
  for pairs in _PAIRS:
    yield from (word for name, word in pairs.findall(value) if is_secret(name))


def _forms(secret: str) -> Iterator[str]:
  """The encodings of a secret that are no layer of escapes."""
  content = secret.encode(errors="replace")
  forms = {secret, content.decode("latin-1")}
  forms |= {form.replace(" ", "+") for form in forms}
  forms |= {content.hex(), content.hex().upper()}
  for _ in range(_LAYERS):
    # A layer that is taken away takes what looks like an escape in it along,
    # also with a "=" that stands before it.
    marked = [mark + form for form in forms for mark in ("", "=")]
    forms |= {_unescaped(form)[0].removeprefix("=") for form in marked}
  for before in range(3):
    # The characters that hold bits of the secret alone, and nearly all of it.
    first, last = -(-8 * before // 6), 8 * (before + len(content)) // 6
    text = base64.b64encode(bytes(before) + content).decode()[first:last]
    forms |= {text, text.replace("+", "-").replace("/", "_")}
  return (form for form in forms if len(form) >= _SHORTEST)


def _found(text: str, grams: dict) -> Iterator[tuple[int, int]]:
  """(start, end) of each secret in a text."""
  for i in range(0, len(text), _STEP):
    for at, form in grams.get(text[i : i + _GRAM], ()):
      if i >= at and text.startswith(form, i - at):
        yield i - at, i - at + len(form)


def _unescaped(text: str) -> tuple[str, list[tuple[int, int]]]:
  """A text without its outer escapes, and (place in it, in `text`) by run."""
  parts, runs, end, size = [], [(0, 0)], 0, 0
  for found in _ESCAPE.finditer(text):
    code, octal, letter, entity = found.groups("")
    number = int(code or "0", 16) or int(octal or "0", 8)
    letter = chr(number) if number else _LETTERS.get(letter, letter)
    inner = letter or html.unescape(entity and f"&{entity}")
    parts += [text[end : found.start()], inner]
    size += found.start() - end
    runs += [(size, found.start()), (size + len(inner), found.end())]
    size, end = size + len(inner), found.end()
  return "".join([*parts, text[end:]]), runs


def _outside(at: int, runs: list[tuple[int, int]]) -> int:
  """The place in a text of a place in the same text without escapes."""
  run = bisect.bisect(runs, at, key=operator.itemgetter(0)) - 1
  return runs[run][1] + at - runs[run][0]


def _masked(text: str, spans: list[tuple[int, int]]) -> str:
  parts, end = [], 0
  for start, stop in sorted(spans):
    if start >= end:
      parts += [text[end:start], _MASK]
    end = max(end, stop)
  return "".join([*parts, text[end:]])
