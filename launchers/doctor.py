"""Checks this machine before a run, with a line for each thing that it needs.

  python -m launchers.doctor --config=configs/quickstart.py --workdir=runs/a

Exit status 1 if any is an error, else 0; a warning is for you to judge. What a
run does not read at its start is not read here: train is the next command.
"""

import json
import os
import pathlib
import subprocess
import sys

from absl import flags

from . import common

common.define_flags(workdir=False)
_JSON = flags.DEFINE_string("json", None, "A file for all lines.")


def _compiled(target: str) -> tuple[str, str]:
  """What launchers.compile says of these flags; it needs a JAX of its own."""
  command = [sys.executable, "-m", f"{__package__}.compile", *sys.argv[1:]]
  command += [f"--target={target}", f"--json={os.devnull}"]
  done = subprocess.run(command, capture_output=True, text=True)
  said = [s for s in done.stdout.splitlines() if s.startswith(f"{target}: ")]
  if not said:  # it has no compilers, or refuses the config
    return "warning", f"not checked: {done.stderr.strip().splitlines()[-1]}"
  return "error" if done.returncode else "ok", said[0]


def main():
  config = common.config()
  from atlas_jax import gpus

  os.environ.update(gpus.of_trainer(config))  # as train does, before JAX starts
  from atlas_jax.preflight import doctor

  workdir = flags.FLAGS.workdir and common.workdir()
  found, key = [], common.server_key()
  for finding in doctor.Examination(config, workdir, key, _compiled).findings():
    found.append(finding._asdict())
    print("{level:8} {key:22} {text}".format(**found[-1]), flush=True)
  if _JSON.value is not None:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=1) + "\n")
  sys.exit(any(finding["level"] == "error" for finding in found))


if __name__ == "__main__":
  common.launch(main)
