"""Keeps keys out of every text that is kept or shown."""

import json
import re
import urllib.parse
from collections.abc import Callable, Mapping

_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
# A shorter value is a setting (false, a port), and stands in honest answers.
_SHORTEST = 8  # characters
_MASK = "***"


def scrubber(environ: Mapping[str, str], *own: str | None) -> Callable:
  """A function that masks secrets in a text.

  Args:
    environ: values of variables whose names sound secret are masked.
    own: further secrets, of any length; None and "" are passed over.
  """
  found = {
    value
    for name, value in environ.items()
    if _NAMES.search(name) and len(value) >= _SHORTEST
  }
  found |= {value for value in own if value}
  forms = set()
  for value in found:
    forms |= {value, json.dumps(value)[1:-1], urllib.parse.quote(value)}
  # The longest first: one secret may be a part of another.
  ordered = sorted(forms, key=len, reverse=True)

  def scrub(text: str) -> str:
    for form in ordered:
      text = text.replace(form, _MASK)
    return text

  return scrub


def answer_scrubber(environ: Mapping[str, str], *own: str | None) -> Callable:
  """For answers: of `own` only what is long enough to be a secret."""
  return scrubber(environ, *(v for v in own if v and len(v) >= _SHORTEST))
