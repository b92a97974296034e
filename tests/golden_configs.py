"""The resolved configs of configs/teacher.py as text, one key a line.

`python -m tests.golden_configs` writes them anew under tests/golden/.
"""

import dataclasses
import pathlib

from atlas_jax import config as config_lib
from configs import teacher

FOLDER = pathlib.Path(__file__).with_name("golden")


def _lines(values: dict, prefix: str = ""):
  for key, value in values.items():
    if isinstance(value, dict) and value:
      yield from _lines(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key} = {value!r}"


def text(variant: str) -> str:
  config = config_lib.resolve(teacher.get_config(variant))
  return "\n".join(_lines(dataclasses.asdict(config))) + "\n"


def path(variant: str) -> pathlib.Path:
  return FOLDER / f"teacher_{variant}.txt"


if __name__ == "__main__":
  FOLDER.mkdir(exist_ok=True)
  for name in teacher.VARIANTS:
    path(name).write_text(text(name), encoding="utf-8")
