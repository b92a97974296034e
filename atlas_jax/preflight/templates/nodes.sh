#!/usr/bin/env bash
#SBATCH --job-name={{ name }}
#SBATCH --nodes={{ trainers + 1 }}
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:{{ gpus }}
#SBATCH --exclusive
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# {{ trainers }} nodes that train, and one for both servers. Written by
#   {{ command }}
# In the repository root, with any --config.KEY=VALUE behind it:
#   ACCOUNT=A PARTITION=P TIME=24:00:00 WORKDIR=/shared/runs/a bash THIS_FILE
# submits itself; the same command resumes. The key of the servers is
# ATLAS_SERVER_KEY, or drawn for this job.
{% include "head.sh" %}
if [[ -z "${ATLAS_SERVER_KEY:-}" ]]; then
  ATLAS_SERVER_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
fi
export ATLAS_SERVER_KEY
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# JAX would read it out of the node list, and takes rack[1-2]n[01-04] for rack1.
port=${JAX_COORDINATOR_PORT:-$((61440 + SLURM_JOB_ID % 4096))}
export JAX_COORDINATOR_ADDRESS="${JAX_COORDINATOR_ADDRESS:-${nodes[0]}:$port}"
server=${nodes[{{ trainers }}]}
trainers=$(IFS=, && echo "${nodes[*]:0:{{ trainers }}}")
step=(srun --kill-on-bad-exit=1 --ntasks-per-node=1 --cpu-bind=none)
config=({{ words(flags) }} --workdir="$WORKDIR")

servers='' trainer=''
# srun passes SIGTERM on as SIGKILL. The trainer has state, so that its step is
# sent SIGTERM by name; it is number 1, the servers' is number 0.
stop() {
  [[ -n "$trainer" ]] || exit 143
  echo "SIGTERM: the trainer saves and ends"
  scancel --signal=TERM "$SLURM_JOB_ID.1" || true  # says why
}
end() {
  kill $servers $trainer 2>/dev/null || true
  wait
}
trap stop TERM
trap end EXIT

"${step[@]}" --nodes=1 --ntasks=1 --nodelist="$server" \
  --output="$logs/servers.log" \
  "$PYTHON" -m launchers.serve "${config[@]}" "${listen[@]}" \
  "$@" &
servers=$!
{% include "health.sh" %}

"${step[@]}" --nodes={{ trainers }} --ntasks={{ trainers }} --nodelist="$trainers" \
  --output="$logs/trainer_%t.log" \
  "$PYTHON" -m launchers.train "${config[@]}" --coordinator=auto \
  --config.serving.teacher.url="http://$server:$teacher_port" \
  --config.serving.student.url="http://$server:$student_port" \
  "$@" &
trainer=$!
echo "logs: $logs"
while kill -0 "$trainer" 2>/dev/null; do
  if ! kill -0 "$servers" 2>/dev/null; then
    echo "error: the servers ended: see $logs/servers.log" >&2
    exit 1
  fi
  sleep 1
done
status=0
wait "$trainer" || status=$?
echo "the trainer ended with status $status"
exit "$status"
