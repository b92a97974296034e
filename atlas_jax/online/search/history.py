"""What a run has decided for good, by the content of what it decided on.

Good replies and verdicts are kept by themselves. What else a search depends on,
above all the failures that it went on with, is committed: a run that starts
again searches again from its seed, reads this, and asks nobody.
"""

import hashlib
import json
from dataclasses import dataclass

from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.record import Record


class SearchOver(AtlasError):
  """The search ends, with what it has; the text says why."""


def key_of(kind: str, *parts) -> str:
  """The name under which something of these parts, values of JSON, is kept."""
  text = json.dumps(parts)
  return f"{kind} {hashlib.sha256(text.encode()).hexdigest()}"


@dataclass
class History:
  """Over a run's record.

  ended: why the search is over, while it is replayed: then nothing new may be
  asked.
  """

  record: Record
  ended: str | None = None

  def read(self, key: str):
    """What was committed under `key`; None: nothing yet.

    Raises:
      SearchOver: nothing, and the search has ended.
    """
    value = self.record.read(key)
    if value is None and self.ended is not None:
      raise SearchOver(self.ended)
    return value
