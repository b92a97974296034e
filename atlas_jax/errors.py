"""The base of every exception that this project raises on purpose."""

_LONGEST = 10_000  # characters; data and servers may put more in a text


class AtlasError(Exception):
  """An error whose text says all; a launcher prints it as one line."""

  def __str__(self) -> str:
    text = super().__str__()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
