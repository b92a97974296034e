"""The answer in JSON: one value, JSON Lines, events, or JSON amid a log.

A path says where a value stands: choices[0].message.content. Keys are parted
by dots; a list is indexed by [0], [-1] or .0; a key with dots or brackets is
quoted, as in ["a.b"][0]. (JMESPath, which is close to this, does not tell a
null, which is an empty answer, from a path that leads nowhere.) Of several
values each part is read from the last that has it. What follows the answer
may still tell of a failure; what went before it is the past.
"""

import json
import re
import reprlib
from collections.abc import Iterator, Mapping

from atlas_jax.online.calls import told_errors
from atlas_jax.online.calls.calls import Answer, CallFailed
from atlas_jax.online.calls.chat_json import used
from atlas_jax.online.calls.cleaning import cleaned

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_STEP = re.compile(r'(?:^|\.)([^.\[\]"]+)|\[(-?\d+)\]|\[("(?:[^"\\]|\\.)*")\]')
_VALUE = re.compile(r"^[ \t]*(?:data:[ \t]*)?(?=[\[{])", re.MULTILINE)
_REST = re.compile(r"[ \t]*(?:\n|\Z)")
_SHORT = reprlib.Repr()
_SHORT.maxdict = 20
# Cut later, by who has taken keys out: half a key is not known as one.
_SHORT.maxstring = _SHORT.maxother = 1 << 30


def steps_of(path: str) -> list[str]:
  """The steps of a path; none: it is no path."""
  if "".join(found[0] for found in _STEP.finditer(path)) != path:
    return []
  steps = _STEP.findall(path)
  return [key or index or json.loads(quoted) for key, index, quoted in steps]


def follow(value, path: str):
  """What stands at the end of the path.

  Raises:
    CallFailed: it ends before; the text shows what is there.
  """
  for step in steps_of(path):
    try:
      value = value[int(step) if isinstance(value, list) else step]
    except (LookupError, TypeError, ValueError):
      raise CallFailed(f"{_SHORT.repr(value)} has no {step!r}") from None
  return value


def answer_in(text: str, where: Mapping[str, str], how: str, of: str) -> Answer:
  """The answer in `text`, with its ending and its tokens.

  Args:
    text: all that was said.
    where: the paths of the parts: answer (without it, the text is the
      answer), failure_path, finish_reason, and COUNTS.
    how: it came, for errors and for a person.
    of: the length and the type of what came, for errors.

  Raises:
    CallFailed: it is no JSON, it tells of an error, or has no answer.
  """
  values = list(_values(text))
  if not values:
    if (told := told_errors.of_text(text)) is not None:
      raise told
    raise CallFailed(f"{how}, {of} that are not valid JSON")

  def optional(part: str, among: list = values):
    for value in reversed(among) if where.get(part) else ():
      try:
        if (found := follow(value, where[part])) is not None:
          return found
      except CallFailed:
        continue
    return None

  answer, after, missing = text, values[-1:], None
  read = f"{how}, the whole text"
  if "answer" in where:
    read = f"{how}, JSON, answer at {where['answer']}"
    answer, after, missing = _last_text(values, where["answer"])
  if failure := optional("failure_path", after):
    raise CallFailed(f"{how} with a failure: {json.dumps(failure)}")
  for i, value in enumerate(after):
    answered = i == 0 and missing is None and bool(answer.strip())
    if (told := told_errors.of_json(value, how, answered)) is not None:
      raise told
  if missing is not None:
    raise CallFailed(f"{read}: {missing}", again=False)
  reason = optional("finish_reason")
  return Answer(
    cleaned(answer),
    None if reason is None else str(reason),
    *used({name: optional(name) for name in COUNTS}),
    read=read,
  )


def _last_text(values: list, path: str) -> tuple[str, list, str | None]:
  """(the last answer, its value and those after it, why there is none)."""
  answer, after, missing = None, values, None
  for i, value in enumerate(values):
    try:
      found = follow(value, path)
    except CallFailed as error:
      missing = missing if answer else str(error)
      continue
    if isinstance(found, dict | list):
      missing = f"{_SHORT.repr(found)} is no text"
    elif found is not None or answer is None:
      text = found if isinstance(found, str) else json.dumps(found)
      answer, after = "" if found is None else text, values[i:]
  return answer or "", after, missing if answer is None else None


def _values(text: str) -> Iterator:
  """Each object and list that begins a line and ends one."""
  at = 0
  while (found := _VALUE.search(text, at)) is not None:
    at = found.end()
    try:
      value, at = json.JSONDecoder().raw_decode(text, at)
    except json.JSONDecodeError as error:
      # What was read up to there is the beginning of a value, and holds none.
      at = max(at + 1, error.pos)
    except RecursionError:
      return
    else:
      if _REST.match(text, at):
        yield value
