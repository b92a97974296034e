"""Runs one stage: the module that its first argument names, with a JSON object
of arguments in the second one."""

import importlib
import json
import sys

from tests.benchmarks.gpu_stages import stand_ins


def main() -> None:
  module, arguments = sys.argv[1:]
  stand_ins.install()  # before anything of atlas_jax is imported
  stage = importlib.import_module(f"tests.benchmarks.gpu_stages.{module}")
  stage.run(**json.loads(arguments))


if __name__ == "__main__":
  main()
