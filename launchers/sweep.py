"""Runs the rows of an ablation, or one of them, and tables their results.

  python -m launchers.sweep --config=configs/ablations/probe_length.py \
      --workdir=runs/probe_length --seeds=0,1,2 --slots=1
  python -m launchers.sweep ... --list          the runs, and their state
  python -m launchers.sweep ... --index=$SLURM_ARRAY_TASK_ID    one row's run
  python -m launchers.sweep ... --sbatch=job.sh       the job array for SLURM

--config.KEY=VALUE holds for every row. Stopped, the same command goes on; runs
that are finished are not repeated.
"""

from absl import flags

from . import common, config_flag

common.define_flags()
_LIST = flags.DEFINE_bool("list", False, "Print the runs and start none.")
_SLOTS = flags.DEFINE_integer(
  "slots", 1, "Runs at one time on this machine.", lower_bound=1
)
_INDEX = flags.DEFINE_integer(
  "index", None, "Start only the row's run of this number, as --list has it."
)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "config.seed of each repetition.")
_SBATCH = flags.DEFINE_string(
  "sbatch", None, "Write a SLURM job array to this file; submits nothing."
)


def _seeds() -> list[int]:
  from atlas_jax.config_tree import ConfigError

  try:
    seeds = [int(seed) for seed in _SEEDS.value]
  except ValueError:
    seeds = []
  if not seeds or not all(0 <= seed < 1 << 32 for seed in seeds):
    raise ConfigError(f"--seeds={','.join(_SEEDS.value)}: numbers like 0,1,2")
  return list(dict.fromkeys(seeds))


def main():
  import pathlib

  from atlas_jax import directory, stopping, sweep
  from atlas_jax.config_tree import ConfigError
  from atlas_jax.preflight import scripts
  from atlas_jax.reports import sweeps

  ablation = sweep.load(config_flag.path())
  sweep.check(ablation, config_flag.tree())
  workdir, seeds = common.workdir(), _seeds()
  given = config_flag.given()
  jobs = sweep.jobs(ablation, workdir, seeds, given)
  rows = [job for job in jobs if job.row is not None]
  name = pathlib.Path(ablation.path).stem
  if _SBATCH.value is not None:
    own = [f"--config={ablation.path}", f"--workdir={workdir}", *given]
    own.append(f"--seeds={','.join(map(str, seeds))}")
    module = f"{sweep.package()}.sweep"
    text = scripts.job_array(name, len(rows), module, own)
    pathlib.Path(_SBATCH.value).write_text(text)
    print(f"{_SBATCH.value}: {len(rows)} runs; submit it with sbatch")
    return
  if _LIST.value:
    for i, job in enumerate(rows):
      state = "done" if sweep.finished(workdir, job) else "to do"
      print(f"{i:4} {job.name:32} {state:6} {' '.join(job.flags)}")
    return
  wanted = jobs
  if _INDEX.value is not None:
    if not 0 <= _INDEX.value < len(rows):
      raise ConfigError(f"--index={_INDEX.value}: 0 to {len(rows) - 1}")
    chosen = rows[_INDEX.value]
    wanted = [job for job in jobs if job.name in (*chosen.after, chosen.name)]
  with stopping.listening():
    states = sweep.run(workdir, wanted, _SLOTS.value)
  if _INDEX.value is None:
    names = [row for row, _ in ablation.rows]
    table = sweeps.table_of(workdir, names, states, seeds)
    print(sweeps.write(workdir, table, name=name, question=ablation.question))
    print(f"table, picture and page: {workdir}/index.html")
  if lost := [key for key, state in states.items() if state != "done"]:
    raise directory.RunError(
      f"not finished: {', '.join(lost)}; see {workdir}/logs"
    )


if __name__ == "__main__":
  common.launch(main)
