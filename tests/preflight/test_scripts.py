"""Scripts for clusters: the committed ones, layouts of GPUs, refusals."""

import importlib
import os
import pathlib
import re
import shlex
import subprocess

import pytest

from atlas_jax import config
from atlas_jax.preflight import scripts

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMITTED = [
  *sorted((ROOT / "launchers/slurm").iterdir()),
  *sorted((ROOT / "launchers/tpu").iterdir()),
  ROOT / "launchers/local_8gpu.sh",
]


def script(variant, kind, nodes, gpus=8, **changes) -> str:
  tree = importlib.import_module("configs.teacher").get_config(variant)
  tree.update_from_flattened_dict(changes)
  return scripts.of_run(
    config.resolve(tree),
    [f"--config=configs/teacher.py:{variant}"],
    kind=kind,
    nodes=nodes,
    gpus_per_node=gpus,
  )


def check(text: str) -> None:
  subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_job_array_is_a_shell_script(tmp_path):
  argv = ["--config=a b.py", "--workdir=runs/x", "--seeds=0,1"]
  path = tmp_path / "job.sh"
  path.write_text(scripts.job_array("probe", 8, "launchers.sweep", argv))
  subprocess.run(["bash", "-n", path], check=True)
  text = path.read_text()
  assert "#SBATCH --array=0-7" in text
  assert "-m launchers.sweep '--config=a b.py' --workdir=runs/x" in text
  assert '--index="$SLURM_ARRAY_TASK_ID"' in text


def test_scripts_of_each_kind_are_committed():
  names = [str(path.relative_to(ROOT / "launchers")) for path in COMMITTED]
  assert names == [
    "slurm/qwen3_8b_1.sbatch",
    "slurm/qwen3_8b_2+1.sbatch",
    "tpu/qwen3_8b_v5p16.sh",
    "local_8gpu.sh",
  ]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_script_is_what_its_own_command_writes(path):
  text = path.read_text()
  (line,) = re.findall(r"^#   python -m launchers.cluster (.*)$", text, re.M)
  given = dict(word[2:].split("=", 1) for word in shlex.split(line))
  assert given.keys() == {"config", "kind", "nodes", "gpus"}
  variant = given["config"].removeprefix("configs/teacher.py:")
  wanted = script(variant, given["kind"], given["nodes"], int(given["gpus"]))
  assert text == wanted
  check(text)


def test_gpus_that_the_config_names_are_the_ones_that_are_asked_for():
  text = script("qwen3_1_7b_2gpu", "slurm", "1")
  assert "#SBATCH --gres=gpu:2\n" in text and ".gpus=" not in text
  check(text)


def test_each_server_has_half_of_what_the_trainer_leaves():
  text = script("smollm2", "local", "1", gpus=4)
  assert re.findall(r"--config\.(\S+)\.gpus=(\S+)", text) == [
    ("mesh", "0-1"),
    ("serving.teacher", "2-2"),
    ("serving.student", "3-3"),
  ]
  assert text.count(".replicas=1 ") == 2  # one engine on one GPU


def test_servers_of_their_own_node_use_all_of_it():
  cut = {"serving.teacher.tensor_parallel": 2, "serving.teacher.replicas": 1}
  text = script("qwen3_8b", "slurm", "4+1", **cut)
  found = re.findall(r"--config\.serving\.(\w+)\.(gpus|replicas)=(\S+)", text)
  assert found == [
    ("teacher", "gpus", "0-3"),
    ("teacher", "replicas", "2"),
    ("student", "gpus", "4-7"),
    ("student", "replicas", "4"),
  ]
  check(text)
  with pytest.raises(
    config.ConfigError, match=r"no multiple of serving\.teach"
  ):
    script("qwen3_8b", "slurm", "4+1", gpus=6, **cut)


def test_no_line_of_a_prompt_is_a_command(tmp_path):
  flags = ["--config=a.py", "--config.prompts.sft_user=x\ntouch out"]
  text = scripts.of_run(
    config.resolve(
      importlib.import_module("configs.teacher").get_config("qwen3_8b")
    ),
    flags,
    kind="local",
    nodes="1",
    gpus_per_node=8,
  )
  subprocess.run(
    ["bash", "-c", text],
    cwd=tmp_path,
    check=True,
    env={**os.environ, "WORKDIR": "w", "PYTHON": "echo"},
  )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("variant", "kind", "nodes", "gpus", "what"),
  [
    ("qwen3_8b", "slurm", "3", 8, r"--nodes=3: 1, or N\+1"),
    ("qwen3_8b", "slurm", "0+1", 8, r"--nodes=0\+1: 1, or N\+1"),
    ("qwen3_8b", "slurm", "2+2", 8, r"--nodes=2\+2: 1, or N\+1"),
    ("qwen3_8b", "tpu", "1", 8, r"--nodes=1: .*tpu wants N\+1"),
    ("qwen3_8b", "local", "2+1", 8, r"--nodes=2\+1: .*local 1"),
    ("smollm2", "local", "1", 3, "--gpus=3: at least 4"),
    ("qwen3_8b", "local", "1", 6, "--gpus=6: at least 8"),
    ("qwen3_8b", "slurm", "1+1", 1, "--gpus=1: at least 2"),
    ("qwen3_1_7b_2gpu", "slurm", "1+1", 8, "--nodes must be 1"),
  ],
)
def test_what_no_script_can_do_is_refused(variant, kind, nodes, gpus, what):
  with pytest.raises(config.ConfigError, match=what):
    script(variant, kind, nodes, gpus)


def test_servers_that_run_already_are_refused():
  with pytest.raises(config.ConfigError, match=r"serving\.student\.url is"):
    script(*("qwen3_8b", "slurm", "1"), **{"serving.student.url": "http://h:1"})
