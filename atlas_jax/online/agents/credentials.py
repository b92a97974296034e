"""Values of the environment: put where a config says, never shown again."""

import json
import re
from collections.abc import Mapping

from atlas_jax.online.calls import variables

# Within one string of a JSON text.
_VARIABLE = re.compile(r'\$\{([^}"]*)\}')


class Credentials:
  """Reads variables and remembers their values, to hide them in texts."""

  def __init__(self, environ: Mapping[str, str]):
    self.environ = environ
    self.values: set[str] = set()

  def variable(self, name: str, where: str) -> str:
    """The value of a variable.

    Raises:
      ConfigError: as variables.read.
    """
    value = variables.read(self.environ, name, where)
    self.values.add(value)
    return value

  def fill(self, template: str, where: str) -> str:
    """JSON with the values of the ${VARIABLE}s in its strings.

    Raises:
      ConfigError: as `variable`.
    """

    def value(found: re.Match) -> str:
      return json.dumps(self.variable(found[1], where))[1:-1]

    return _VARIABLE.sub(value, template)


def masked(text: str) -> str:
  """A text with *** for each ${VARIABLE}: how it may be shown."""
  return _VARIABLE.sub("***", text)
