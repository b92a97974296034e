"""Keeps results of runs, and prints them in the guides; see __init__.py."""

import argparse
import json
import pathlib
import sys

from atlas_jax.errors import AtlasError
from atlas_jax.reports import sweeps
from tests.results import collecting, printing


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m tests.results")
  commands = parser.add_subparsers(dest="command", required=True)
  commands.add_parser("write", help="print the tables of the guides anew")
  picture = commands.add_parser("picture", help="draw an ablation's rows")
  collect = commands.add_parser("collect", help="read finished runs")
  for one in (picture, collect):
    one.add_argument("file", type=pathlib.Path)
  picture.add_argument("png", type=pathlib.Path)
  collect.add_argument("runs", nargs="+", metavar="NAME=WORKDIR")
  collect.add_argument("--root", type=pathlib.Path)
  given = parser.parse_args()
  if given.command == "write":
    printing.write(printing.guides())
    return
  text = given.file.read_text() if given.file.exists() else '{"runs": {}}'
  runs = json.loads(text)["runs"]
  if given.command == "picture":
    sweeps.picture(printing.sweep_rows(runs), given.png)
    return
  for run in given.runs:
    name, _, workdir = run.partition("=")
    runs[name] = collecting.collect(pathlib.Path(workdir), given.root)
  text = json.dumps({"runs": runs}, indent=1, ensure_ascii=False) + "\n"
  if len(text.encode()) > collecting.LARGEST:
    sys.exit(f"{given.file} would be above {collecting.LARGEST} bytes")
  given.file.parent.mkdir(parents=True, exist_ok=True)
  given.file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
  try:
    main()
  except AtlasError as error:
    sys.exit(f"tests.results: {error}")
