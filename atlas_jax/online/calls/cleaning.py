"""What a person sees of a text that another program wrote.

1. Lines end in a newline, whatever ended them.
2. Commands to a terminal go: colours, titles, links, and what is typed over.
3. So do control characters and what Unicode says need not be shown: zero-width
   and bidirectional marks, tags, a byte order mark. A joiner, or the choice of
   a character's form, stays beside characters that it can change, and so do
   the tags that make a flag.
4. What is left may be white space, or blank as one pattern of Braille is: then
   there is nothing to see. A letter that is too new for our tables is one.
"""

import regex

from atlas_jax.online.calls.calls import CallFailed

_NEWLINE = regex.compile(r"\r\n?|[\x0b\x0c\x85]")
_TERMINAL = regex.compile(
  r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
  r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
  r"|\x1b[ -/]*[0-~]|[^\n\x08]\x08"
)
_SHOWN = r"[^\x00-\x7f\p{Cc}\p{Default_Ignorable_Code_Point}]"
_HIDDEN = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\p{Default_Ignorable_Code_Point}]"
_ANY = regex.compile(_HIDDEN)
# England, Scotland, Wales: the flags that Unicode makes of tags.
_FLAGS = "|".join(
  "".join(chr(0xE0000 + ord(c)) for c in f) for f in ("gbeng", "gbsct", "gbwls")
)
_UNSEEN = regex.compile(
  rf"((?<={_SHOWN}\ufe0f?)[\u200c\u200d](?={_SHOWN})"
  rf"|(?<={_SHOWN})[\ufe00-\ufe0f]|(?<=[#*\d])\ufe0f(?=\u20e3)"
  r"|(?<=\p{Han})[\U000e0100-\U000e01ef]"
  r"|(?<=\p{Mongolian})[\u180b-\u180d\u180f]"
  rf"|(?<=\U0001f3f4)(?:{_FLAGS})\U000e007f)"
  rf"|{_HIDDEN}"
)
_SEEN = regex.compile(
  r"[^\s\p{Z}\p{Cc}\p{Cs}\p{Default_Ignorable_Code_Point}"
  r"\p{Noncharacter_Code_Point}\ufff9-\ufffb\u2800]"
)


def is_seen(text: str) -> bool:
  """Whether there is anything to see in it."""
  return _SEEN.search(text) is not None


def is_unicode(text: str) -> bool:
  """Whether a file can hold it: JSON may escape half of a surrogate pair."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def cleaned(text: str) -> str:
  """`text` as a person would read it.

  Raises:
    CallFailed: it is not valid Unicode.
  """
  if _ANY.search(text):
    text = _TERMINAL.sub("", _NEWLINE.sub("\n", text))
    text = _UNSEEN.sub(lambda found: found[1] or "", text)
  if not is_unicode(text):
    raise CallFailed("the answer is not valid Unicode", again=False)
  return text


def decoded(content: bytes, what: str) -> str:
  """The clean text of bytes.

  Raises:
    CallFailed: they are no text; it says `what` they are.
  """
  try:
    return cleaned(content.decode())
  except UnicodeDecodeError:
    size = f"{what}, {len(content)} bytes"
    raise CallFailed(f"{size}, is not UTF-8", again=False) from None
