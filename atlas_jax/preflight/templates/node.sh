#!/usr/bin/env bash
{% if kind == "slurm" %}
#SBATCH --job-name={{ name }}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gres=gpu:{{ gpus }}
#SBATCH --exclusive
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
{% endif %}
# Trainer and servers on one machine of {{ gpus }} GPUs. Written by
#   {{ command }}
# In the repository root, with any --config.KEY=VALUE behind it:
{% if kind == "slurm" %}
#   ACCOUNT=A PARTITION=P TIME=24:00:00 WORKDIR=runs/a bash THIS_FILE
# submits itself; the same command resumes. SIGTERM goes to this process
# alone, 300 s before the end: the servers last until the step is saved.
{% else %}
#   WORKDIR=runs/a bash THIS_FILE
# The same command resumes.
{% endif %}
{% include "head.sh" %}
{% if kind == "slurm" %}
echo "log: $logs/trainer_0.log"
exec >"$logs/trainer_0.log" 2>&1
{% endif %}
# The run starts its servers, and ends them with itself.
exec "$PYTHON" -m launchers.train {{ words(flags) }} \
  --workdir="$WORKDIR" \
{% for flag in gpu_flags %}
  {{ quote(flag) }} \
{% endfor %}
  "$@"
