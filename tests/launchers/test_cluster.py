"""The committed scripts of clusters run, with a SLURM of a few lines.

Its nodes are addresses of this machine. In place of Python there is a script
that notes what it was asked for: as launchers.serve it answers /health, as
launchers.train it ends as $TRAINER says.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import forked

ROOT = pathlib.Path(__file__).resolve().parents[2]
ONE = "launchers/slurm/qwen3_8b_1.sbatch"
MANY = "launchers/slurm/qwen3_8b_2+1.sbatch"
POD = "launchers/tpu/qwen3_8b_v5p16.sh"
LOCAL = "launchers/local_8gpu.sh"
KEY = "k0k0k0"
COMMANDS = {
  # The job's own signal goes to the batch script alone.
  "sbatch": """
echo "sbatch $*" >> "$NOTES/calls"
while [[ "$1" == --* ]]; do shift; done
export SLURM_JOB_ID=77 SLURM_JOB_NODELIST=all
exec bash "$@"
""",
  "scontrol": r"""
[[ "$*" == "show hostnames all" ]] || exit 1
printf '127.0.0.%s\n' 2 3 1
""",
  "srun": r"""
echo "srun $*" >> "$NOTES/calls"
steps=("$NOTES"/step_*)
[[ -e "${steps[0]}" ]] || steps=()
step="$NOTES/step_${#steps[@]}"
while [[ "$1" == --* ]]; do
  case "$1" in
    --ntasks=*) tasks=${1#*=} ;;
    --output=*) output=${1#*=} ;;
  esac
  shift
done
pids=()
# As srun does: SIGTERM to it kills; a task that fails ends the others.
trap 'kill -KILL "${pids[@]}"; wait; exit 137' TERM
for ((i = 0; i < tasks; i++)); do
  SLURM_PROCID=$i "$@" >"${output//%t/$i}" 2>&1 &
  pids+=("$!")
done
echo "${pids[@]}" > "$step"
status=0
for pid in "${pids[@]}"; do
  wait "$pid" && continue
  failed=$?
  ((status > 0)) || status=$failed
  kill -TERM "${pids[@]}" 2>/dev/null
done
exit "$status"
""",
  "scancel": """
[[ "$1" == --signal=TERM ]] || exit 1
kill -TERM $(< "$NOTES/step_${2#77.}")
""",
  "sleep": "exec /bin/sleep 0.05",
  "python": """
launcher=$2
what="$launcher ${SLURM_PROCID:-}"
echo "$what ${ATLAS_SERVER_KEY:-} $*" >> "$NOTES/calls"
echo "$what" >> "$NOTES/order"
echo "${JAX_COORDINATOR_ADDRESS:-}" >> "$NOTES/coordinators"
if [[ "$launcher" == launchers.serve ]]; then
  [[ -z "${SERVERS_FAIL:-}" ]] || exit 5
  exec "$REAL" "$NOTES/serve.py" "$NOTES" "$TEACHER_PORT" "$STUDENT_PORT"
fi
case "$TRAINER" in
  wait)
    trap 'kill "$!"; echo "saved $SLURM_PROCID" >> "$NOTES/order"
      exit 143' TERM
    /bin/sleep 30 &
    echo "$launcher waits" >> "$NOTES/order"
    wait "$!"
    ;;
  lead)
    [[ "$SLURM_PROCID" == 0 ]] && exit 3
    exec /bin/sleep 30
    ;;
  *) exit "$TRAINER" ;;
esac
""",
}
SERVE = """
import pathlib, socketserver, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
order = pathlib.Path(sys.argv[1], "order")
class Health(BaseHTTPRequestHandler):
  def do_GET(self):
    self.send_response(200 if self.path == "/health" else 404)
    self.end_headers()
  def log_message(self, *_): pass
for number, port in enumerate(sys.argv[2:]):
  time.sleep(0.2)  # one is up before the other
  with order.open("a") as f: f.write(f"up {number}\\n")
  server = HTTPServer(("0.0.0.0", int(port)), Health)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
thread.join()
"""


def free_ports() -> list[int]:
  with socket.socket() as a, socket.socket() as b:
    for one in (a, b):
      one.bind(("0.0.0.0", 0))
    return [one.getsockname()[1] for one in (a, b)]


class Cluster:
  def __init__(self, tmp_path: pathlib.Path):
    self.notes, self.workdir = tmp_path / "notes", tmp_path / "run dir"
    bin_ = tmp_path / "bin"
    for folder in (self.notes, bin_):
      folder.mkdir()
    for name, body in COMMANDS.items():
      (bin_ / name).write_text(f"#!/usr/bin/env bash\n{body}")
      (bin_ / name).chmod(0o755)
    (self.notes / "serve.py").write_text(SERVE)
    self.ports = free_ports()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    self.env = {
      **kept,
      "PATH": f"{bin_}:{os.environ['PATH']}",
      "NOTES": str(self.notes),
      "PYTHON": str(bin_ / "python"),
      "REAL": sys.executable,
      "WORKDIR": str(self.workdir),
      "TEACHER_PORT": str(self.ports[0]),
      "STUDENT_PORT": str(self.ports[1]),
      "ATLAS_SERVER_KEY": KEY,
      "TRAINER": "0",
    }
    self.slurm = {"ACCOUNT": "acc", "PARTITION": "gpu", "TIME": "1:00:00"}

  def start(self, script, *arguments, **env) -> subprocess.Popen:
    return subprocess.Popen(
      ["bash", script, *arguments],
      cwd=ROOT,
      env={**self.env, **env},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def run(self, script, *arguments, **env) -> tuple[int, str]:
    process = self.start(script, *arguments, **env)
    output, _ = process.communicate(timeout=30)
    return process.returncode, output

  def read(self, name: str) -> list[str]:
    path = self.notes / name
    return path.read_text().splitlines() if path.exists() else []

  def calls(self, name: str) -> list[str]:
    return [line for line in self.read("calls") if line.startswith(name)]

  def wait_for(self, line: str, times: int = 1) -> None:
    end = time.monotonic() + 20
    while self.read("order").count(line) < times:
      assert time.monotonic() < end, self.read("order")
      time.sleep(0.02)

  def ended(self) -> bool:
    """Whether no server listens and no process of a step is left."""
    for port in self.ports:
      with socket.socket() as s:
        if s.connect_ex(("127.0.0.1", port)) == 0:
          return False
    pids = " ".join(p.read_text() for p in self.notes.glob("step_*")).split()
    return not any(pathlib.Path("/proc", pid).exists() for pid in pids)


@pytest.fixture
def cluster(tmp_path):
  return Cluster(tmp_path)


def dry_run(call: str) -> str:
  """What the real launcher of runs makes of the flags of a noted call."""
  words = re.split(r" (?=--)", call)[1:]
  words = [w for w in words if not w.startswith("--coordinator")]
  done = forked.run("launchers.train", *words, "--dry_run")
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_nodes_serve_then_train_then_all_ends(cluster):
  rc, output = cluster.run(MANY, "--config.seed=4", **cluster.slurm)
  assert (rc, cluster.ended()) == (0, True), output
  order = cluster.read("order")
  assert order[:3] == ["launchers.serve 0", "up 0", "up 1"]
  assert sorted(order[3:]) == ["launchers.train 0", "launchers.train 1"]
  (submitted,) = cluster.calls("sbatch")
  assert "--account=acc --partition=gpu --time=1:00:00" in submitted
  serving, training = cluster.calls("srun")
  assert (
    "--kill-on-bad-exit=1" in serving and "--nodelist=127.0.0.1 " in serving
  )
  assert "--kill-on-bad-exit=1" in training
  assert "--nodes=2 --ntasks=2 --nodelist=127.0.0.2,127.0.0.3 " in training
  # The key is in the environment of each, and among the arguments of none.
  for name in ("launchers.serve", "launchers.train"):
    for call in cluster.calls(name):
      assert call.split()[2] == KEY and call.count(KEY) == 1
  assert not any(KEY in call for call in cluster.calls("s"))
  # Of the first node, which JAX does not find in every list.
  assert {*cluster.read("coordinators")} == {"127.0.0.2:61517"}
  logs = sorted(p.name for p in (cluster.workdir / "logs/77.0").iterdir())
  assert logs == ["servers.log", "trainer_0.log", "trainer_1.log"]
  train = cluster.calls("launchers.train")[0]
  assert "--coordinator=auto" in train and "--config.seed=4" in train
  said = dry_run(train)
  assert "GPUs: nothing is set" in said
  assert f"teacher server: http://127.0.0.1:{cluster.ports[0]}\n" in said
  assert f"student server: http://127.0.0.1:{cluster.ports[1]}\n" in said
  said = dry_run(cluster.calls("launchers.serve")[0])
  assert "teacher server on 0, 1, 2, 3; student server on 4, 5, 6, 7" in said
  assert f"--host 0.0.0.0 --port {cluster.ports[1]} " in said
  assert said.count("--data-parallel-size 4") == 2


def test_an_error_of_one_trainer_ends_all_with_its_status(cluster):
  rc, output = cluster.run(MANY, TRAINER="lead", **cluster.slurm)
  assert (rc, cluster.ended()) == (3, True), output
  assert "the trainer ended with status 3\n" in output


def test_servers_that_fail_end_the_job_before_the_trainer_starts(cluster):
  rc, output = cluster.run(MANY, SERVERS_FAIL="1", **cluster.slurm)
  assert rc == 1 and "ended before they were up: see" in output
  assert cluster.read("order") == ["launchers.serve 0"]


def test_servers_that_die_end_the_trainer(cluster):
  process = cluster.start(MANY, TRAINER="wait", **cluster.slurm)
  cluster.wait_for("launchers.train waits", times=2)
  os.kill(int((cluster.notes / "step_0").read_text()), signal.SIGKILL)
  output, _ = process.communicate(timeout=30)
  assert (process.returncode, cluster.ended()) == (1, True), output
  assert "error: the servers ended: see" in output


def test_a_preemption_lets_the_trainer_save_while_servers_are_up(cluster):
  process = cluster.start(MANY, TRAINER="wait", **cluster.slurm)
  cluster.wait_for("launchers.train waits", times=2)
  process.send_signal(signal.SIGTERM)  # as --signal=B:TERM@300 does
  output, _ = process.communicate(timeout=30)
  assert (process.returncode, cluster.ended()) == (143, True), output
  # srun may send a task a second signal while it saves.
  assert {*cluster.read("order")[-2:]} <= {"saved 0", "saved 1"}
  assert {"saved 0", "saved 1"} <= {*cluster.read("order")}


def test_a_key_is_drawn_for_a_job_without_one(cluster):
  rc, output = cluster.run(MANY, ATLAS_SERVER_KEY="", **cluster.slurm)
  assert rc == 0
  keys = {call.split()[2] for call in cluster.calls("launchers")}
  (key,) = keys
  assert re.fullmatch("[0-9a-f]{32}", key) and key not in output


def test_one_node_runs_as_one_process_with_its_status(cluster):
  rc, _ = cluster.run(
    ONE, TRAINER="6", SLURM_RESTART_COUNT="2", **cluster.slurm
  )
  assert rc == 6
  (call,) = cluster.calls("launchers")
  assert "-m launchers.train" in call and f"={cluster.workdir}" in call
  assert (cluster.workdir / "logs/77.2/trainer_0.log").exists()


def test_eight_gpus_are_four_and_four(cluster):
  rc, said = cluster.run(LOCAL, "--dry_run", PYTHON=sys.executable)
  assert rc == 0
  assert "trainer: CUDA_VISIBLE_DEVICES=0,1,2,3\n" in said
  assert "teacher server: CUDA_VISIBLE_DEVICES=4,5 " in said
  assert "student server: CUDA_VISIBLE_DEVICES=6,7 " in said


def test_a_pod_waits_for_the_servers_of_another_machine(cluster):
  trainer = cluster.start(
    *(POD, "trainer", "--config.seed=4"), SERVER_HOST="127.0.0.1", TRAINER="3"
  )
  servers = cluster.start(POD, "servers")
  try:
    output, _ = trainer.communicate(timeout=30)
    assert trainer.returncode == 3, output
    assert servers.poll() is None  # they last for the next attempt
  finally:
    servers.terminate()
    servers.communicate(timeout=30)
  assert cluster.ended()
  assert cluster.read("order")[1:] == ["up 0", "up 1", "launchers.train "]
  (train,) = cluster.calls("launchers.train")
  assert "--coordinator=auto" in train and "--config.seed=4" in train
  assert "GPUs: nothing is set" in dry_run(train)
  names = sorted(p.name for p in (cluster.workdir / "logs").iterdir())
  assert [name.split("_")[0] for name in names] == ["servers", "trainer"]


@pytest.mark.parametrize(
  ("script", "arguments", "missing"),
  [
    *((ONE, (), name) for name in ("WORKDIR", "ACCOUNT", "PARTITION", "TIME")),
    *((MANY, (), name) for name in ("WORKDIR", "ACCOUNT", "PARTITION")),
    *((POD, ("trainer",), name) for name in ("WORKDIR", "ATLAS_SERVER_KEY")),
    (POD, ("trainer",), "SERVER_HOST"),
    (LOCAL, (), "WORKDIR"),
  ],
)
def test_a_value_of_the_site_that_is_missing_is_named(
  script, arguments, missing, cluster
):
  given = {**cluster.slurm, "SERVER_HOST": "h", missing: ""}
  rc, output = cluster.run(script, *arguments, **given)
  assert rc != 0 and f"{missing}: is not set: " in output
  assert not cluster.read("calls")


def test_other_mistakes_are_one_line(cluster):
  rc, output = cluster.run(POD, "server")
  assert (rc, output.count("\n")) == (1, 1)
  assert "unknown part 'server'; valid: servers, trainer" in output
  rc, output = cluster.run(LOCAL, PYTHON="no/python")
  assert rc == 1 and "error: no no/python here: run this in the" in output
