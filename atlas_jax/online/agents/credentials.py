"""Values of the environment: put where a config says, never shown again."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from atlas_jax.config import ConfigError

# Variables that an agent may read by itself, and put into an error.
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
HIDDEN = "***"
# Shorter values (a port, a word) also stand in honest answers.
_SHORTEST_SECRET = 8


class Credentials:
  """Reads variables and remembers their values, to hide them in texts.

  Values of variables that are secrets by their names are hidden anyway.
  """

  def __init__(self, environ: Mapping[str, str]):
    self.environ = environ
    self._values: set[str] = set()
    for name, value in environ.items():
      if _SECRET_NAME.search(name.upper()) and len(value) >= _SHORTEST_SECRET:
        self._remember(value)

  def variable(self, name: str, where: str) -> str:
    """The value of a variable.

    Raises:
      ConfigError: it is not set, empty, or has a control character.
    """
    if not self.environ.get(name):
      raise ConfigError(f"{where}: the variable {name} is not set")
    value = self.environ[name]
    if not value.isprintable():
      raise ConfigError(
        f"{where}: the variable {name} holds a line break or another control"
        " character"
      )
    self._remember(value)
    return value

  def fill(self, text: str, where: str) -> str:
    """`text` with the values of its ${VARIABLE}s.

    Raises:
      ConfigError: as `variable`.
    """
    return _VARIABLE.sub(lambda found: self.variable(found[1], where), text)

  def hide(self, text: str) -> str:
    """An error or a log line without the values."""
    return self._without(text, 1)

  def hide_in_answer(self, text: str) -> str:
    """An answer without the values that are long enough to be secrets."""
    return self._without(text, _SHORTEST_SECRET)

  def _remember(self, value: str) -> None:
    self._values |= {value, quote(value, safe="")}

  def _without(self, text: str, shortest: int) -> str:
    # The longest first: one value may stand inside another.
    for value in sorted(self._values, key=len, reverse=True):
      if len(value) >= shortest:
        text = text.replace(value, HIDDEN)
    return text


def masked(text: str) -> str:
  """`text` with *** for each ${VARIABLE}: how it may be shown."""
  return _VARIABLE.sub(HIDDEN, text)
