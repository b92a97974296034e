"""Keeps keys out of every text that is kept or shown.

A text is searched as it is, and with up to three layers of escapes taken away
(URL, JSON, Python, HTML, a line broken in two), for each secret, its
hexadecimal form, and its base64, also within a longer one, where it begins at
any of three alignments. In errors half a secret, its beginning or its end, is
masked too: whoever wrote the text may have cut it.
"""

import base64
import html
import json
import os.path
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from atlas_jax.secret_names import is_secret

_NAMES = re.compile(
  r"KEY|TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|JWT|BEARER|COOKIE"
  r"|WEBHOOK|CONN\w*STR|_PWD?$|(^|_)(PAT|PASS|AUTH(ORI[SZ]ATION|_CONFIG)?)$",
  re.IGNORECASE,
)
_USER = re.compile(r"://([^/?#\s]*)@")
_PAIR = re.compile(r"([\w.-]+)=([^&;\s]+)")
# A shorter value is a setting (false, a port), and stands in honest answers.
_SHORTEST = 8  # characters
_MASK = "***"
_LONGEST_ERROR = 600  # characters
_MOST_SEARCHED = 1 << 20  # characters of an error
_LAYERS = 3
_ESCAPE = re.compile(
  r"(?:%|\\x|\\u00)([0-9a-fA-F]{2})|(&#?\w{2,8};)|\\(.)|\r?\n[ \t]*"
)
# An escape that hides a letter or a digit, or another escape.
_HIDES = re.compile(
  r"[%\\&](?:(?<=&)[#a-zA-Z]"
  r"|(?:x|u00)?(?:3\d|[46][1-9a-fA-F]|[57][\daA]|2[56]|5[cC]))"
)
_MOST_SIGNS = 500  # each is searched for by itself: of some ten keys
_WORD = re.compile(r"[A-Za-z0-9]+")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}
_shared = os.path.commonprefix  # of any texts
# Of a text every 4th place is looked up: _SHORTEST characters have all these.
_STEP, _GRAM = 4, 5


def scrubber(environ: Mapping[str, str], *own: str | None) -> Callable:
  """A function that masks secrets in an error or a line of a log.

  Args:
    environ: values of variables whose names sound secret are masked, and
      passwords in URLs, wherever they stand.
    own: further secrets, of any length; None and "" are passed over.
  """
  long = _long(environ, own, halves=True)
  short = [v for v in own if v and v.strip() and len(v) < _SHORTEST]

  def scrub(text: str) -> str:
    for value in short:
      text = text.replace(value, _MASK)
    return long(text)

  return scrub


def answer_scrubber(environ: Mapping[str, str], *own: str | None) -> Callable:
  """For answers: whole secrets, and only what is long enough to be one."""
  return _long(environ, own, halves=False)


def told(scrub: Callable[[str], str], text: str) -> str:
  """The beginning of an error as one line: hidden first, cut afterwards.

  This is the one place that cuts an error. Far more is searched than is kept:
  a secret that is cut before it is hidden is not among what is kept.
  """
  text = text[:_MOST_SEARCHED].encode(errors="backslashreplace").decode()
  return " ".join(scrub(text).split())[:_LONGEST_ERROR]


def _in_variable(name: str, value: str) -> Iterator[str]:
  """The secrets in a variable; a place where one lies is none."""
  is_place = os.path.isabs(value) and os.path.exists(value)
  if _NAMES.search(name) and not is_place:
    yield from (value, re.sub(r"^(Basic|Bearer) ", "", value))
  for user in _USER.findall(value):
    if ":" in user or len(user) > 2 * _SHORTEST:
      yield user.partition(":")[2] or user
  yield from (word for name, word in _PAIR.findall(value) if is_secret(name))


def _looked_for(secret: str, halves: bool) -> Iterator[tuple]:
  """(what must stand in a text, what may before it, what may after it)."""
  content = secret.encode(errors="replace")
  forms = {secret, content.decode("latin-1"), json.dumps(secret)[1:-1]}
  forms |= {form.replace(" ", "+") for form in forms}
  forms |= {content.hex(), content.hex().upper()}
  for _ in range(_LAYERS):
    # A layer that is taken away takes what looks like an escape in it along.
    forms |= {_unescaped(form, range(len(form) + 1))[0] for form in forms}
  for before in range(3):
    # The characters that hold bits of the secret alone, and nearly all of it.
    first, last = -(-8 * before // 6), 8 * (before + len(content)) // 6
    text = base64.b64encode(bytes(before) + content).decode()[first:last]
    forms |= {text, text.replace("+", "-").replace("/", "_")}
  for form in forms:
    need = max(_SHORTEST, -(-len(form) // 2)) if halves else len(form)
    if len(form) >= _SHORTEST:
      yield form[-need:], form[:-need], ""
      if "://" not in form:  # half of an address is no secret
        yield form[:need], "", form[need:]


def _long(environ, own: Iterable[str | None], halves: bool) -> Callable:
  """The function that masks what has _SHORTEST characters or more."""
  values = {value.strip() for value in own if value}
  for variable in environ.items():
    values.update(map(str.strip, _in_variable(*variable)))
  secrets = (value for value in values if len(value) >= _SHORTEST)
  forms = {form for value in secrets for form in _looked_for(value, halves)}
  signs = {sign for part, *_ in forms for sign in _signs(part)}
  grams: dict[str, list] = {}
  for part, before, after in forms:
    # Its end, since many secrets have the same beginning.
    for at in range(len(part) - _GRAM, len(part) - _GRAM - _STEP, -1):
      gram = part[at : at + _GRAM]
      grams.setdefault(gram, []).append((at, part, before, after))

  def scrub(text: str) -> str:
    # Nearly every text ends here: what follows takes a hundred times as long.
    if len(signs) < _MOST_SIGNS and not (
      any(sign in text for sign in signs) or _HIDES.search(text)
    ):
      return text
    spans, bare, at = [], text, range(len(text) + 1)
    for _ in range(_LAYERS + 1):
      spans += [(at[a], at[b]) for a, b in _found(bare, grams)]
      outer = bare
      bare, at = _unescaped(bare, at)
      if bare is outer:
        break
    parts, end = [], 0
    for start, stop in sorted(spans):
      if start >= end:
        parts += [text[end:start], _MASK]
      end = max(end, stop)
    return "".join([*parts, text[end:]])

  return scrub


def _signs(part: str) -> tuple[str, ...]:
  """Of these a text holds one, if it holds `part` and no letter is escaped.

  Two, since a line may be broken within one.
  """
  word = max(_WORD.findall(part), key=len, default="")
  half = len(word) // 2
  return (word[:half], word[half:]) if half >= _GRAM else (word,)


def _found(text: str, grams: dict) -> Iterator[tuple[int, int]]:
  """Where in a text secrets begin and end."""
  places = range(0, len(text), _STEP)
  for i in [i for i in places if text[i : i + _GRAM] in grams]:
    for at, part, before, after in grams[text[i : i + _GRAM]]:
      start, end = i - at, i - at + len(part)
      if start < 0 or not text.startswith(part, start):
        continue
      said = text[max(0, start - len(before)) : start]
      start -= len(_shared([said[::-1], before[::-1]]))
      yield start, end + len(_shared([text[end : end + len(after)], after]))


def _unescaped(text: str, at) -> tuple[str, list[int]]:
  """A text without its outer escapes, and where each character began.

  Args:
    text: the same object comes back where there are none.
    at: where the characters of `text` began, and where it ends.
  """
  parts, began, end = [], [], 0
  for found in _ESCAPE.finditer(text):
    code, entity, letter = found.groups("")
    letter = chr(int(code, 16)) if code else _LETTERS.get(letter, letter)
    inner = letter or html.unescape(entity)
    parts += [text[end : found.start()], inner]
    began.extend(at[end : found.start()])
    began.extend([at[found.start()]] * len(inner))
    end = found.end()
  if not parts:
    return text, at
  return "".join([*parts, text[end:]]), began + list(at[end:])
