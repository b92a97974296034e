"""Scripts for SLURM are scripts."""

import subprocess

from atlas_jax.preflight import slurm


def test_the_job_array_is_a_shell_script(tmp_path):
  argv = ["--config=a b.py", "--workdir=runs/x", "--seeds=0,1"]
  path = tmp_path / "job.sh"
  path.write_text(slurm.job_array("probe", 8, "launchers.sweep", argv))
  subprocess.run(["bash", "-n", path], check=True)
  text = path.read_text()
  assert "#SBATCH --array=0-7" in text
  assert "-m launchers.sweep '--config=a b.py' --workdir=runs/x" in text
  assert '--index="$SLURM_ARRAY_TASK_ID"' in text
