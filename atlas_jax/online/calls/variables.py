"""Variables of the environment that a config names: read, and never shown."""

import json
import re
from collections.abc import Mapping
from typing import Annotated

from atlas_jax import secret_names
from atlas_jax.config_tree import ConfigError, Valid

# A key of a config that names a variable, in whose place a secret may stand.
VariableName = Annotated[
  str, Valid(secret_names.NO_NAME, secret_names.may_name, shown=False)
]
# Within one string of a JSON text.
_VARIABLE = re.compile(r'\$\{([^}"]*)\}')


def check_key(value: str, what: str) -> None:
  """Refuses what no header takes; of a file with CRLF, each line ends in one.

  Raises:
    ConfigError: with `what` it is.
  """
  if not value.isprintable():
    raise ConfigError(f"{what} holds a line break or another control character")


class Credentials:
  """Reads variables and remembers their values, to hide them in texts."""

  def __init__(self, environ: Mapping[str, str]):
    self.environ = environ
    self.values: set[str] = set()

  def variable(self, name: str, where: str) -> str:
    """The value of a variable, fit to be sent in a header.

    Args:
      name: of the variable.
      where: the config key that names it, for errors.

    Raises:
      ConfigError: it is not set, empty, or has a control character; or the
        name is none, and so may be the key itself.
    """
    if not secret_names.may_name(name):
      raise ConfigError(f"{where} {secret_names.NO_NAME}")
    value = self.environ.get(name)
    if not value:
      raise ConfigError(f"{where}: the variable {name} is not set")
    check_key(value, f"{where}: the variable {name}")
    self.values.add(value)
    return value

  def key(self, name: str | None, where: str) -> str | None:
    """`variable` of the key `api_key_env` of a section; None: it names none."""
    return name and self.variable(name, f"{where}.api_key_env")

  def fill(self, template: str, where: str) -> str:
    """JSON with the values of the ${VARIABLE}s in its strings.

    Raises:
      ConfigError: as `variable`.
    """

    def value(found: re.Match) -> str:
      return json.dumps(self.variable(found[1], where))[1:-1]

    return _VARIABLE.sub(value, template)
