#!/usr/bin/env bash
# From a fresh clone to a teacher that has learned to teach, on one CPU.
#
#   bash launchers/quickstart.sh
#   bash launchers/quickstart.sh --workdir=runs/seed1 --config.seed=1
#   bash launchers/quickstart.sh --full
#
# Every --config flag goes to all runs that train or evaluate. Stopped in the
# middle, the same command goes on from the last checkpoint. --full goes
# further: prompts are evolved, a student that the teacher never met is taught,
# and the ablations are run and drawn; that takes an hour or two more.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

workdir=runs/quickstart
full=
seed=0
flags=()
others=() # all but the seed, which a sweep has a flag for
for argument in "$@"; do
  case "$argument" in
    --workdir=?*) workdir=${argument#--workdir=} ;;
    --full) full=1 ;;
    --config.seed=*) seed=${argument#*=} flags+=("$argument") ;;
    --config.*=*) flags+=("$argument") others+=("$argument") ;;
    -h | --help)
      sed -n '2,12s/^# \{0,1\}//p' launchers/quickstart.sh
      exit 0
      ;;
    *)
      printf 'quickstart: error: unknown argument %s; valid: %s\n' \
        "$argument" '--workdir=DIR, --full, --config.KEY=VALUE, --help' >&2
      exit 1
      ;;
  esac
done

say() { printf '\nquickstart: %s\n' "$*"; }

run() { # MODULE FLAG...
  .venv/bin/python -m "launchers.$1" "${@:2}"
}

make_student() { # VARIANT DIRECTORY
  local config="configs/quickstart.py:$1" untrained="$workdir/untrained"
  run teachable --config="$config" --config.teacher.path="$untrained" \
    "${flags[@]}"
  run train --config="$config" --workdir="$2" \
    --config.teacher.path="$untrained" "${flags[@]}"
}

as_tuple() { .venv/bin/python -c 'import sys; print((sys.argv[1],))' "$1"; }

started=$SECONDS
student="$workdir/student/export"
teacher="$workdir/teacher/export"
# A .venv that is there stays what it is.
if [[ -x .venv/bin/python ]]; then kind=; else kind=cpu; fi
bash launchers/setup.sh $kind
say "1/2 the student learns arithmetic, with its misconceptions"
make_student student "$workdir/student"
say "2/2 the teacher learns to teach it: SFT, GRPO, evaluation"
run train --config=configs/quickstart.py --workdir="$workdir/teacher" \
  --config.teacher.path="$student" --config.student.path="$student" \
  "${flags[@]}"
if [ -n "$full" ]; then
  say "full 1/4 another student, which slips more often"
  make_student other_student "$workdir/other_student"
  say "full 2/4 prompts are evolved for the trained teacher"
  run optimize --config=configs/online.py:demo --workdir="$workdir/evolve" \
    --config.student.model="$student" --config.teacher.model="$teacher" \
    --config.seed="$seed"
  say "full 3/4 the teacher before both students, in its words and in those"
  run evaluate --config=configs/quickstart.py --workdir="$workdir/table" \
    --config.teacher.path="$teacher" --config.student.path="$student" \
    --config.evaluate.students="$(as_tuple "$workdir/other_student/export")" \
    --config.evaluate.prompts="$(as_tuple "$workdir/evolve/best_prompts.json")" \
    "${flags[@]}"
  say "full 4/4 the ablations; pictures in $workdir/ablations/NAME/index.html"
  for name in probe_length sft_or_not reward_weights intervention; do
    run sweep --config="configs/ablations/$name.py" --seeds="$seed" \
      --workdir="$workdir/ablations/$name" "${others[@]}"
  done
fi
say "done in $(((SECONDS - started) / 60)) minutes; the report is in" \
  "$workdir/teacher/report"
