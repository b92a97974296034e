"""The base of every exception that this project raises, and texts of others."""


class AtlasError(Exception):
  """An error whose text says all; a launcher prints it as one line."""


def one_line(error: object, most: int = 300) -> str:
  """The beginning of an error's text, its lines joined."""
  return " ".join(str(error).split())[:most]
