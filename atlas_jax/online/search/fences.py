"""Texts between fences, by the rules of CommonMark."""

import re

_FENCE = re.compile(r"( {0,3})(`{3,}(?=[^`]*$)|~{3,})[ \t]*(.*?)[ \t]*")


def blocks(text: str, quoted: str) -> tuple[list[str], bool]:
  """The texts between fences, and whether there is no other reading.

  A fence ends at one that is as long or longer, with nothing behind it. One
  that could stand inside a block as well as open or end another makes it
  unsure; a block that is `quoted` is whole.
  """
  texts, fences, sure, fence, indent, lines = [], [], True, "", "", []
  for line in text.replace("\r\n", "\n").split("\n"):
    found = _FENCE.fullmatch(line)
    before, mark, info = found.groups() if found else ("", "", "")
    if not fence and mark:
      sure &= bool(info) or not any(map(mark.startswith, fences))
      fence, indent, lines = mark, before, []
    elif fence and mark.startswith(fence) and not info:
      texts.append("\n".join(lines).strip())
      if texts[-1] != quoted:
        fences.append(fence)
      fence = ""
    elif fence:
      sure &= not mark.startswith(fence)
      lines.append(line.removeprefix(indent))
  return texts, sure and not fence


def fenced(text: str) -> str:
  """A text between fences that are longer than any in it."""
  longest = max(map(len, re.findall("`+", text)), default=0)
  fence = "`" * max(3, longest + 1)
  return f"{fence}\n{text}\n{fence}"
