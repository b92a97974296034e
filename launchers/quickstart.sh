#!/usr/bin/env bash
# From a fresh clone to a teacher that has learned to teach, on one CPU.
#
#   bash launchers/quickstart.sh
#   bash launchers/quickstart.sh --workdir=runs/seed1 --config.seed=1
#
# Every --config flag goes to both runs, student and teacher. Stopped in the
# middle, the same command goes on from the last checkpoint.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

workdir=runs/quickstart
flags=()
for argument in "$@"; do
  case "$argument" in
    --workdir=?*) workdir=${argument#--workdir=} ;;
    --config.*=*) flags+=("$argument") ;;
    -h | --help)
      sed -n '2,8s/^# \{0,1\}//p' launchers/quickstart.sh
      exit 0
      ;;
    *)
      printf 'quickstart: error: unknown argument %s; valid: %s\n' \
        "$argument" '--workdir=DIR, --config.KEY=VALUE, --help' >&2
      exit 1
      ;;
  esac
done

say() { printf '\nquickstart: %s\n' "$*"; }

started=$SECONDS
untrained="$workdir/untrained"
student="$workdir/student/export"
bash launchers/setup.sh
say "1/2 the student learns arithmetic, with its misconceptions"
.venv/bin/python -m launchers.teachable --config=configs/quickstart.py:student \
  --config.teacher.path="$untrained" "${flags[@]}"
.venv/bin/python -m launchers.train --config=configs/quickstart.py:student \
  --workdir="$workdir/student" --config.teacher.path="$untrained" "${flags[@]}"
say "2/2 the teacher learns to teach it: SFT, GRPO, evaluation"
.venv/bin/python -m launchers.train --config=configs/quickstart.py \
  --workdir="$workdir/teacher" --config.teacher.path="$student" \
  --config.student.path="$student" "${flags[@]}"
say "done in $(((SECONDS - started) / 60)) minutes; the report is in" \
  "$workdir/teacher/report"
