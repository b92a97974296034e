#!/usr/bin/env bash
# A trainer on a TPU pod of {{ trainers }} hosts, and a machine of {{ gpus }} GPUs for
# both servers: vLLM samples on GPUs here, not on TPUs. Written by
#   {{ command }}
# In the repository root, with any --config.KEY=VALUE behind it:
#   bash THIS_FILE servers     on the GPU machine
#   bash THIS_FILE trainer     on each host of the pod, at one time
# Both need WORKDIR and the same ATLAS_SERVER_KEY; the trainer needs SERVER_HOST
# too. Weights go by HTTP where the GPU machine does not see the pod's WORKDIR.
# The servers stay up between its restarts: Ctrl-C, or SIGTERM, ends them.
{% include "head.sh" %}
: "${ATLAS_SERVER_KEY:?is not set: draw one, the same for servers and trainer}"
export ATLAS_SERVER_KEY
logs="$WORKDIR/logs"
mkdir -p -- "$logs"
log="$logs/${1:-}_$(uname -n)_$(date +%Y%m%dT%H%M%S).log"
config=({{ words(flags) }} --workdir="$WORKDIR")
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
{% include "health.sh" %}
echo "log: $log"
exec "$PYTHON" -m launchers.train "${config[@]}" --coordinator=auto \
  --config.serving.teacher.url="http://$server:$teacher_port" \
  --config.serving.student.url="http://$server:$student_port" \
  "${@:2}" >"$log" 2>&1
