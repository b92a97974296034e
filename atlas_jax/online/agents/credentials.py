"""Values of the environment: put where a config says, never shown again."""

import functools
import re
from collections.abc import Callable, Mapping

from atlas_jax.online.calls import variables
from atlas_jax.scrubbing import answer_scrubber, scrubber

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
HIDDEN = "***"
# A server without a key must not be sent OpenAI's.
_NO_KEY = "none"


class Credentials:
  """Reads variables and remembers their values, to hide them in texts.

  Values of variables that are secrets by their names are hidden anyway: an
  agent may read those by itself, and put them into an error.
  """

  def __init__(self, environ: Mapping[str, str]):
    self.environ = environ
    self._values: set[str] = set()

  def variable(self, name: str, where: str) -> str:
    """The value of a variable.

    Raises:
      ConfigError: as variables.read.
    """
    value = variables.read(self.environ, name, where)
    self._values.add(value)
    for scrub in ("hide", "hide_in_answer"):
      self.__dict__.pop(scrub, None)  # made anew
    return value

  def key(self, variable: str | None, where: str) -> str:
    """The key that `where`.api_key_env names, for an OpenAI client.

    Raises:
      ConfigError: as `variable`.
    """
    if variable is None:
      return _NO_KEY
    return self.variable(variable, f"{where}.api_key_env")

  def fill(self, text: str, where: str) -> str:
    """`text` with the values of its ${VARIABLE}s.

    Raises:
      ConfigError: as `variable`.
    """
    return _VARIABLE.sub(lambda found: self.variable(found[1], where), text)

  def fill_all(self, template, where: str):
    """A JSON template with every string filled.

    Raises:
      ConfigError: as `variable`.
    """
    return each_string(template, lambda text: self.fill(text, where))

  @functools.cached_property
  def hide(self) -> Callable[[str], str]:
    """Takes the values out of an error or a log line."""
    return scrubber(self.environ, *self._values)

  @functools.cached_property
  def hide_in_answer(self) -> Callable[[str], str]:
    """Takes out of an answer what is long enough to be a secret."""
    return answer_scrubber(self.environ, *self._values)


def each_string(template, change: Callable[[str], str]):
  """A JSON template with every string value changed."""
  if isinstance(template, str):
    return change(template)
  if isinstance(template, dict):
    return {k: each_string(value, change) for k, value in template.items()}
  if isinstance(template, list | tuple):
    return [each_string(value, change) for value in template]
  return template


def masked(text: str) -> str:
  """`text` with *** for each ${VARIABLE}: how it may be shown."""
  return _VARIABLE.sub(HIDDEN, text)
