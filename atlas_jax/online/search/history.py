"""What a run has decided for good, by the content of what it decided on.

Good replies are in the record of calls. What else a search depends on, above
all failures that it went on with, is committed here: a run that starts again
searches again from its seed, reads this, and asks nobody.
"""

from dataclasses import dataclass

from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.record import Record


class SearchOver(AtlasError):
  """The search ends, with what it has; the text says why."""


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

  def commit(self, key: str, value) -> None:
    """Keeps a value of JSON for good, in one transaction."""
    self.record.commit(key, value)
