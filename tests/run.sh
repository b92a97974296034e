#!/usr/bin/env bash
# Sets up .venv and runs the tests, three at a time, since many wait for others.
# Arguments go to pytest:
#   bash tests/run.sh -m 'not slow and not vllm'
#   bash tests/run.sh tests/model -k rope -n 0
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

# A .venv that is there stays what it is.
if [[ -x .venv/bin/python ]]; then kind=; else kind=cpu; fi
bash launchers/setup.sh $kind
# Compiled programs are kept between runs; a set variable wins.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
exec .venv/bin/python -m pytest -n 3 "$@"
