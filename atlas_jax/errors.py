"""The base of every exception that this project raises, and texts of others."""


class AtlasError(Exception):
  """An error whose text says all; a launcher prints it as one line."""


def one_line(error: object, most: int | None = 300) -> str:
  """An error's text, its lines joined; the first `most` characters of it."""
  return " ".join(str(error).split())[:most]
