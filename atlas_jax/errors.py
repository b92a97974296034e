"""The base of every exception that this project raises on purpose."""


class AtlasError(Exception):
  """An error whose text says all; a launcher prints it as one line."""
