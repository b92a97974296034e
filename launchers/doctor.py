"""Checks this machine before a run; exit status 1 if a line is an error.

python -m launchers.doctor --config=configs/quickstart.py --workdir=runs/a
"""

import os
import pathlib
import subprocess
import sys

from absl import flags

from . import common, config_flag

common.define_flags(workdir=False)
_JSON = flags.DEFINE_string("json", None, "A file for all lines.")


def _compiled(target: str) -> tuple[str, str]:
  """What launchers.compile says of these flags; it needs a JAX of its own."""
  command = [sys.executable, "-m", f"{__package__}.compile", *sys.argv[1:]]
  command += [f"--target={target}", f"--json={os.devnull}"]
  done = subprocess.run(command, capture_output=True, text=True)
  said = [s for s in done.stdout.splitlines() if s.startswith(f"{target}: ")]
  if not said:  # it has no compilers, or refuses the config
    why = done.stderr.strip() or f"it ended with {done.returncode}"
    return "warning", f"not checked: {why.splitlines()[-1]}"
  return "error" if done.returncode else "ok", said[0]


def main():
  from atlas_jax import directory

  config = common.config()
  common.take_gpus(config)
  from atlas_jax import multihost
  from atlas_jax.preflight import doctor

  multihost.check_devices()
  workdir = common.workdir() if flags.FLAGS.workdir else None
  exam = doctor.Examination(config, workdir, common.server_key(), _compiled)
  found = []
  for key, level, text in exam.findings():
    text = config_flag.shown(text)
    found.append({"key": key, "level": level, "text": text})
    print(f"{level:8} {key:22} {text}", flush=True)
  if _JSON.value:
    directory.write_json(pathlib.Path(_JSON.value), found)
  wrong = any(finding["level"] == "error" for finding in found)
  sys.exit(any(multihost.call_on_all(lambda: wrong)))


if __name__ == "__main__":
  common.launch(main)
