#!/usr/bin/env bash
# A trainer on a TPU pod of 2 hosts, and a machine of 8 GPUs for
# both servers: vLLM samples on GPUs here, not on TPUs. Written by
#   python -m launchers.cluster --config=configs/teacher.py:qwen3_8b_v5p16 --kind=tpu --nodes=2+1 --gpus=8
# In the repository root, with any --config.KEY=VALUE behind it:
#   bash THIS_FILE servers     on the GPU machine
#   bash THIS_FILE trainer     on each host of the pod, at one time
# Both need WORKDIR and the same ATLAS_SERVER_KEY; the trainer needs SERVER_HOST
# too. Weights go by HTTP where the GPU machine does not see the pod's WORKDIR.
# The servers stay up between its restarts: Ctrl-C, or SIGTERM, ends them.
set -euo pipefail
: "${WORKDIR:?is not set: it is the run directory, on a disk that all that train see at this path}"
: "${PYTHON:=.venv/bin/python}"
if ! command -v -- "$PYTHON" >/dev/null; then
  echo "error: no $PYTHON here: run this in the repository root after" \
    "bash launchers/setup.sh, or set PYTHON" >&2
  exit 1
fi
teacher_port=${TEACHER_PORT:-8101}
student_port=${STUDENT_PORT:-8102}
listen=(
  --config.serving.teacher.host=0.0.0.0
  --config.serving.student.host=0.0.0.0
  --config.serving.teacher.port="$teacher_port"
  --config.serving.student.port="$student_port"
  --config.serving.teacher.gpus=0-3
  --config.serving.teacher.replicas=4
  --config.serving.student.gpus=4-7
  --config.serving.student.replicas=4
)
: "${ATLAS_SERVER_KEY:?is not set: draw one, the same for servers and trainer}"
export ATLAS_SERVER_KEY
logs="$WORKDIR/logs"
mkdir -p -- "$logs"
log="$logs/${1:-}_$(uname -n)_$(date +%Y%m%dT%H%M%S).log"
config=(--config=configs/teacher.py:qwen3_8b_v5p16 --workdir="$WORKDIR")
case "${1:-}" in
  servers)
    echo "log: $log"
    exec "$PYTHON" -m launchers.serve "${config[@]}" "${listen[@]}" \
      "${@:2}" >"$log" 2>&1
    ;;
  trainer) ;;
  *)
    echo "error: unknown part '${1:-}'; valid: servers, trainer" >&2
    exit 1
    ;;
esac
server=${SERVER_HOST:?is not set: it is the name or address of the GPU machine}
for port in "$teacher_port" "$student_port"; do
  until curl --fail --silent --noproxy '*' --max-time 5 --output /dev/null \
    "http://$server:$port/health"; do
    if ((SECONDS > 660)); then
      echo "error: no answer from http://$server:$port/health in" \
        "660 s: is that port open between the machines?" >&2
      exit 1
    fi
    sleep 1
  done
  echo "http://$server:$port is up after $SECONDS s"
done
echo "log: $log"
exec "$PYTHON" -m launchers.train "${config[@]}" --coordinator=auto \
  --config.serving.teacher.url="http://$server:$teacher_port" \
  --config.serving.student.url="http://$server:$student_port" \
  "${@:2}" >"$log" 2>&1
