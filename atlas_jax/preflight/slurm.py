"""Scripts for SLURM, as text; nothing here submits any."""

import os
import shlex
import sys
from collections.abc import Sequence


def job_array(name: str, count: int, module: str, argv: Sequence[str]) -> str:
  """A job array that runs `python -m module argv --index=N` for each N.

  Args:
    name: of the array.
    count: how many jobs, numbered from 0.
    module: of the launcher.
    argv: its arguments; a --workdir among them is one that all machines see.
  """
  arguments = " ".join(map(shlex.quote, argv))
  return f"""#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --array=0-{count - 1}
#SBATCH --ntasks=1
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --output=%x-%A_%a.log
# Account, partition, time and accelerators: sbatch's own flags, or SBATCH_*
# variables. Afterwards the same command without --index writes the table.
set -euo pipefail
cd {shlex.quote(os.getcwd())}
exec {shlex.quote(sys.executable)} -m {module} {arguments} \\
  --index="$SLURM_ARRAY_TASK_ID"
"""
