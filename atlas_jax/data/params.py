"""Checks of what config.data says of its source, for every source alike."""

from collections.abc import Collection, Mapping

from atlas_jax.data.problems import DataError


def chosen(table: Mapping, name: str, key: str):
  """table[name]; an unknown name raises and lists the valid ones."""
  if name not in table:
    raise DataError(
      f"config.data.{key}={name!r} is unknown; valid: {', '.join(table)}"
    )
  return table[name]


def checked_params(
  given: Mapping, key: str, needed: Collection[str], optional: Collection[str]
) -> None:
  """Raises DataError where config.data.`key` lacks a name or has another."""
  wrong = [f"{name} is missing" for name in needed if name not in given]
  valid = [*needed, *optional]
  wrong += [f"{name} is unknown" for name in given if name not in valid]
  if wrong:
    raise DataError(
      f"config.data.{key}: {'; '.join(wrong)}; valid:"
      f" {', '.join(valid) or 'none'}"
    )


def needed_path(path: str | None, key: str) -> str:
  if path is None:
    raise DataError(f"config.data.{key} is needed by this source")
  return path
