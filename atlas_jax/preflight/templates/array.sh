#!/usr/bin/env bash
#SBATCH --job-name={{ name }}
#SBATCH --array=0-{{ count - 1 }}
#SBATCH --ntasks=1
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --output=%x-%A_%a.log
# Account, partition, time and accelerators: sbatch's own flags, or SBATCH_*
# variables. Afterwards the same command without --index writes the table.
set -euo pipefail
cd {{ quote(directory) }}
exec {{ quote(python) }} -m {{ module }} {{ words(argv) }} \
  --index="$SLURM_ARRAY_TASK_ID"
