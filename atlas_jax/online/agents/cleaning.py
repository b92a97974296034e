"""Text of other programs without what a person does not see in it.

1. Lines end in a newline, whatever ended them.
2. Commands to a terminal go: colours, titles, links, and what is typed over.
3. So do control characters and what Unicode says need not be shown: zero-width
   and bidirectional marks, tags, a byte order mark. A joiner, or the choice of
   an emoji's form, stays between characters that it can change.
"""

import regex

from atlas_jax.online.calls.calls import CallFailed
from atlas_jax.online.calls.chat_json import is_unicode

_NEWLINE = regex.compile(r"\r\n?|[\x0b\x0c\x85]")
_TERMINAL = regex.compile(
  r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
  r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
  r"|\x1b[ -/]*[0-~]|[^\n\x08]\x08"
)
_SHOWN = r"[^\x00-\x7f\p{Cc}\p{Default_Ignorable_Code_Point}]"
_HIDDEN = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\p{Default_Ignorable_Code_Point}]"
_ANY = regex.compile(_HIDDEN)
_UNSEEN = regex.compile(
  rf"((?<={_SHOWN}\ufe0f?)[\u200c\u200d](?={_SHOWN})"
  rf"|(?<={_SHOWN})[\ufe0e\ufe0f])|{_HIDDEN}"
)


def cleaned(text: str) -> str:
  """`text` as a person would read it.

  Raises:
    CallFailed: no file can hold it: JSON may escape half of a surrogate pair.
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
