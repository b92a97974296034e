"""The template that a reply proposes, and why one is refused.

A proposal is refused, and never evaluated, unless
  1. it stands between ``` fences in a reply that was not cut, and no other
     reading of the fences (CommonMark's) gives another template,
  2. its fields are exactly those of teaching.prompts.FIELDS,
  3. it is within its limit,
  4. it differs from its parent.
"""

import dataclasses
import re

from atlas_jax.config import PromptsConfig
from atlas_jax.errors import AtlasError
from atlas_jax.teaching.prompts import PromptError, Prompts, strip_thinking

_FENCE = re.compile(r"( {0,3})(`{3,}(?=[^`]*$)|~{3,})[ \t]*(.*?)[ \t]*")


class Refusal(AtlasError):
  """A proposal cannot be used; the text says why, for the model to read."""


def read(
  text: str, name: str, current: str, prompts: PromptsConfig, limit: int
) -> str:
  """The template that a whole reply proposes for `name`.

  Args:
    text: of the reply.
    name, current: the template and its text now.
    prompts: the other templates.
    limit: of its length, in characters.

  Raises:
    Refusal: by one of the rules of the module.
  """
  found, sure = blocks(strip_thinking(text) or "", current.strip())
  if not found:
    raise Refusal("no text between ``` fences")
  if not sure:
    raise Refusal(
      "it is not clear which ``` ends the template: write one block alone,"
      " and between longer fences (````) if the template holds ``` itself"
    )
  whys = [_unfit(one, name, current, prompts, limit) for one in found]
  good = [one for one, why in zip(found, whys, strict=True) if why is None]
  if len(good) > 1:
    raise Refusal(f"{len(good)} blocks between fences could be the template")
  if not good:
    raise Refusal(whys[-1])
  return good[0]


def _unfit(proposed: str, name, current, prompts, limit) -> str | None:
  """Why it cannot be the template; None: it can."""
  if len(proposed) > limit:
    return f"{len(proposed)} characters; at most {limit} are allowed"
  if proposed == current.strip():
    return "it is the template as it was"
  try:
    Prompts(dataclasses.replace(prompts, **{name: proposed}))
  except PromptError as error:
    return str(error)
  return None


def shown(text: str) -> str:
  """What is shown of a refused reply: its template, or what it said aloud."""
  spoken = strip_thinking(text) or ""
  found, _ = blocks(spoken, "")
  return (found[-1] if found else spoken).strip()


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
