"""The command atlas-jax: every launcher by its name, installed or not.

  atlas-jax train --config=configs/quickstart.py --workdir=runs/a

is `python -m launchers.train` with the same flags.
"""

import ast
import os
import pathlib
import runpy
import sys

from atlas_jax import __version__

COMMANDS = (
  *("train", "evaluate", "export", "serve", "optimize", "agent_check"),
  *("proxy", "report", "show", "compare", "sweep"),
  *("teachable", "convert_gguf", "compile", "doctor", "cluster"),
)


def usage() -> str:
  lines = ["usage: atlas-jax COMMAND [--FLAG=VALUE ...]", ""]
  for name in COMMANDS:
    # Read and not imported: a launcher declares its flags on import.
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    lines.append(f"  {name:14}{text.splitlines()[0]}")
  return "\n".join([*lines, "", "atlas-jax COMMAND --help: its flags"])


def main() -> None:
  command, *rest = sys.argv[1:] or [""]
  if command in ("-h", "--help"):
    print(usage())
  elif command == "--version":
    print(f"atlas_jax {__version__}")
  elif command not in COMMANDS:
    what = f"unknown command {command!r}" if command else "no command"
    sys.exit(f"error: {what}; valid: {', '.join(COMMANDS)}, --help, --version")
  else:
    sys.argv[1:] = rest
    # What a config names (module:function) may lie in the directory of the
    # call, as with `python -m`, but replaces nothing that is installed.
    sys.path.append(os.getcwd())
    runpy.run_module(
      f"{__package__}.{command}", run_name="__main__", alter_sys=True
    )


if __name__ == "__main__":
  main()
