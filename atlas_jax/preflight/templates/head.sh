set -euo pipefail
: "${WORKDIR:?is not set: it is the run directory{% if trainers %}, on a disk that all that train see at this path{% endif %}}"
: "${PYTHON:=.venv/bin/python}"
if ! command -v -- "$PYTHON" >/dev/null; then
  echo "error: no $PYTHON here: run this in the repository root after" \
    "bash launchers/setup.sh, or set PYTHON" >&2
  exit 1
fi
{% if kind == "slurm" %}
if [[ -z "${SLURM_JOB_ID:-}" ]]; then
  : "${ACCOUNT:?is not set: it is the account that pays for the job}"
  : "${PARTITION:?is not set: it is the partition; sinfo lists them}"
  : "${TIME:?is not set: it is the time limit of the job, as 24:00:00}"
  exec sbatch --account="$ACCOUNT" --partition="$PARTITION" --time="$TIME" \
    "$0" "$@"
fi
logs="$WORKDIR/logs/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"
mkdir -p -- "$logs"
{% endif %}
{% if trainers %}
teacher_port=${TEACHER_PORT:-8101}
student_port=${STUDENT_PORT:-8102}
listen=(
  --config.serving.teacher.host=0.0.0.0
  --config.serving.student.host=0.0.0.0
  --config.serving.teacher.port="$teacher_port"
  --config.serving.student.port="$student_port"
{% for flag in gpu_flags %}
  {{ quote(flag) }}
{% endfor %}
)
{% endif %}
