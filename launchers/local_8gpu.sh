#!/usr/bin/env bash
# Trainer and servers on one machine of 8 GPUs. Written by
#   python -m launchers.cluster --config=configs/teacher.py:qwen3_8b --kind=local --nodes=1 --gpus=8
# In the repository root, with any --config.KEY=VALUE behind it:
#   WORKDIR=runs/a bash THIS_FILE
# The same command resumes.
set -euo pipefail
: "${WORKDIR:?is not set: it is the run directory}"
: "${PYTHON:=.venv/bin/python}"
if ! command -v -- "$PYTHON" >/dev/null; then
  echo "error: no $PYTHON here: run this in the repository root after" \
    "bash launchers/setup.sh, or set PYTHON" >&2
  exit 1
fi
# The run starts its servers, and ends them with itself.
exec "$PYTHON" -m launchers.train --config=configs/teacher.py:qwen3_8b \
  --workdir="$WORKDIR" \
  --config.mesh.gpus=0,1,2,3 \
  "$@"
