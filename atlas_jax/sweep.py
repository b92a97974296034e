"""A sweep: the rows of an ablation, each a training run, started and watched.

A file under configs/ablations/ asks a question in its docstring and has

  get_config()  the base of all rows;
  sweep()       yields (name, {dotted key: value}) for each row; the first row
                is what the others are compared with;
  shared()      optional: yields (name, launcher, "FILE.py:VARIANT",
                {dotted key: value}), the runs whose results the rows start
                from, once a seed, in their order.

A value may hold {NAME}, the directory of a shared run, in which its export
lies in {NAME}/export. Everything of a sweep is in one directory:

  shared/seedS/NAME   rows/NAME_seedS   logs/...log   one run each
  done/...            a file for each run that is finished: what it was

A run is a process of its own and resumes as every run does, so a sweep that
was killed goes on, and a row that fails leaves the others alone.
"""

import importlib.util
import json
import logging
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from ml_collections import ConfigDict

from atlas_jax import config, config_tree, directory, stopping, targets
from atlas_jax.config_tree import ConfigError

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # between two looks at what runs, and at locks of others
_GRACE_S = 600.0  # for a run that is stopped: a compilation, a step, a save
# Keys that name directories of runs, beside those that end in `path`.
_DIRECTORIES = ("evaluate.teachers", "evaluate.students", "evaluate.prompts")


@dataclass(frozen=True)
class Job:
  """One run of a sweep.

  name is unique in the sweep; flags follow its config; after names the jobs
  that must be finished before. row: of a shared run it is None.
  """

  name: str
  row: str | None
  launcher: str
  config: str
  flags: tuple[str, ...]
  directory: pathlib.Path
  after: tuple[str, ...] = ()
  base: str = ""  # the base of the rows, as JSON

  def identity(self) -> str:
    """What decides the results of the run, wherever its file lies."""
    name = pathlib.PurePath(self.config).name
    return json.dumps([self.launcher, name, self.flags, self.base])


@dataclass(frozen=True)
class Ablation:
  """What a file under configs/ablations/ says."""

  path: str
  question: str
  base: Mapping  # get_config() as plain values
  rows: tuple[tuple[str, Mapping], ...]
  shared: tuple[tuple[str, str, str, Mapping], ...] = ()


def load(path: str) -> Ablation:
  """Reads the ablation in the Python file `path`.

  Raises:
    ConfigError: there is no file, it does not import, has no sweep(), no row,
      a name twice, or what else cannot be a row.
  """
  if not pathlib.Path(path).is_file():
    raise ConfigError(
      f"--config={path}: there is no such file; an ablation is named without a"
      " variant"
    )
  has = targets.load(f"{path}:__dict__", "--config")
  for name in ("get_config", "sweep"):
    if name not in has:
      raise ConfigError(
        f"{path} has no {name}(); see the guide of configs/ablations"
      )
  base = _result(path, has["get_config"])
  if not isinstance(base, ConfigDict):
    raise ConfigError(f"{path}: get_config() must return a ConfigDict")
  rows = _yielded(path, has["sweep"], str, Mapping)
  shared = _yielded(path, has.get("shared", tuple), str, str, str, Mapping)
  names = [row[0] for row in (*rows, *shared)]
  if not rows:
    raise ConfigError(f"{path}: sweep() yields no row")
  for name in names:
    if not re.fullmatch(r"[\w.-]+", name) or names.count(name) > 1:
      raise ConfigError(
        f"{path}: {name!r} cannot name a row; valid: letters, digits, '_', '.'"
        " and '-', and each name once"
      )
  question = (has["__doc__"] or "").strip()
  return Ablation(path, question, base.to_dict(), rows, shared)


def _result(path: str, function: Callable):
  """What a function of the ablation returns; all that a generator yields."""
  try:
    found = function()
    return list(found) if isinstance(found, Iterator) else found
  except Exception as error:
    why = targets.raised(error, function)
    raise ConfigError(f"{path} cannot be read: {why}") from error


def _yielded(path: str, function: Callable, *kinds: type) -> tuple:
  """What a function of the ablation yields: tuples of these kinds."""
  wanted = ", ".join(kind.__name__ for kind in kinds)
  found = _result(path, function) or ()
  for row in found:
    is_row = isinstance(row, tuple) and len(row) == len(kinds)
    if not is_row or not all(map(isinstance, row, kinds)):
      said = " ".join(repr(row).split())
      raise ConfigError(f"{path} yields {said}; it must be ({wanted})")
  return tuple(found)


def _check_shared(overrides: Mapping, names: Sequence[str]) -> None:
  """Refuses a directory {NAME}/... of a run that is not shared so far."""
  for key, value in overrides.items():
    if str(key).endswith("path") or key in _DIRECTORIES:
      for name in re.findall(r"\{([\w.-]+)\}", str(value)):
        if name not in names:
          valid = ", ".join(names) or "none"
          raise ConfigError(
            f"{key}={value} names no shared run; valid: {valid}"
          )


def check(ablation: Ablation, tree: ConfigDict) -> None:
  """Refuses a row whose config is not valid, before any run starts.

  Raises:
    ConfigError: as config.resolve, the row named.
  """
  base = dict(config_tree.flat(ablation.base))
  runs = [(run[0], run[-1]) for run in ablation.shared]
  shared, keys = [name for name, _ in runs], {*config_tree.dotted(tree)}
  for at, (name, values) in enumerate((*runs, ("get_config()", base))):
    try:
      _check_shared(values, shared[:at])
    except ConfigError as error:
      raise ConfigError(f"{ablation.path}, {name}: {error}") from None
  for name, overrides in ablation.rows:
    changed = tree.copy_and_resolve_references()
    try:
      _check_shared(overrides, shared)
      for key in overrides:
        if key not in keys:
          hint = config_tree.meant(str(key), tree)
          raise ConfigError(f"config.{key} names no key{hint}")
      if "seed" in overrides:
        raise ConfigError("config.seed is what --seeds sets")
      changed.update_from_flattened_dict(overrides)
      config.resolve(changed)
    except (KeyError, TypeError, ConfigError) as error:
      text = str(error.args[0] if error.args else error)
      raise ConfigError(f"{ablation.path}, row {name}: {text}") from None


def _flags(
  overrides: Mapping[str, Any], directories: Mapping[str, str]
) -> list[str]:
  """--config.KEY=VALUE, with the directories of shared runs put in."""
  found = []
  for key, value in overrides.items():
    text = str(value)
    for name, where in directories.items():
      text = text.replace(f"{{{name}}}", where)
    found.append(f"--config.{key}={text}")
  return found


def jobs(
  ablation: Ablation,
  folder: pathlib.Path,
  seeds: Sequence[int],
  flags: Sequence[str] = (),
) -> list[Job]:
  """All runs: for each seed what is shared, then the rows; rows in order.

  Args:
    ablation: the rows.
    folder: of the sweep.
    seeds: config.seed of each repetition.
    flags: --config.KEY=VALUE of the user, for all rows.

  Raises:
    ConfigError: a flag sets what rows set.
  """
  given = {f.split("=", 1)[0].removeprefix("--config.") for f in flags}
  for name, overrides in ablation.rows:
    if taken := sorted(given & {*overrides, "seed"}):
      raise ConfigError(
        f"--config.{taken[0]} is what row {name} sets; change it in"
        f" {ablation.path}, or seeds by --seeds"
      )
  shared, rows = [], []
  identity = json.dumps(ablation.base, sort_keys=True, default=str)
  for seed in seeds:
    directories: dict[str, str] = {}
    seeded = f"--config.seed={seed}"
    for name, launcher, file, overrides in ablation.shared:
      where = folder / "shared" / f"seed{seed}" / name
      after = tuple(f"{before}_seed{seed}" for before in directories)
      job = f"{name}_seed{seed}"
      own = (seeded, *_flags(overrides, directories))
      shared.append(Job(job, None, launcher, file, own, where, after))
      directories[name] = str(where)
    after = tuple(f"{name}_seed{seed}" for name in directories)
    named = {
      key: value
      for key, value in config_tree.flat(ablation.base)
      if any(f"{{{name}}}" in str(value) for name in directories)
    }
    first = (seeded, *_flags(named, directories), *flags)
    for name, overrides in ablation.rows:
      own = (*first, *_flags(overrides, directories))  # a key's last one holds
      job = f"{name}_seed{seed}"
      where, path = folder / "rows" / job, ablation.path
      rows.append(Job(job, name, "train", path, own, where, after, identity))
  return [*shared, *rows]


def command(job: Job) -> list[str]:
  """The argv of a run. (teachable writes a model and has no run directory.)"""
  module = f"{package()}.{job.launcher}"
  argv = [sys.executable, "-m", module, f"--config={job.config}", *job.flags]
  if job.launcher == "teachable":
    return [*argv, f"--config.teacher.path={job.directory}"]
  return [*argv, f"--workdir={job.directory}"]


def package() -> str:
  """Where the launchers lie: the checkout, or the installed package."""
  found = importlib.util.find_spec("launchers")
  return "launchers" if found is not None else "atlas_jax.launchers"


def finished(folder: pathlib.Path, job: Job) -> bool:
  """Whether the run was finished before, in the sweep of `folder`.

  Raises:
    RunError: another config or other flags finished it.
  """
  path = folder / "done" / job.name
  if not path.exists():
    return False
  if path.read_text(encoding="utf-8") != job.identity():
    raise directory.RunError(
      f"{job.name} was finished with another config or other flags; choose"
      f" another --workdir, or undo the change (see {path})"
    )
  return True


def run(
  folder: pathlib.Path, wanted: Sequence[Job], slots: int
) -> dict[str, str]:
  """Runs what is not finished; job name -> 'done', 'failed' or 'skipped'.

  Jobs start in their order, at most `slots` at one time. A job whose shared
  run failed is skipped. Every process that was started ends with us.
  """
  states: dict[str, str] = {}
  running: dict[str, tuple[IO, subprocess.Popen]] = {}  # its lock, and itself
  try:
    while any(job.name not in states for job in wanted):
      for job in (job for job in wanted if job.name not in states):
        path = folder / "logs" / f"{job.name}.log"
        if job.name in running:
          held, process = running[job.name]
          if (status := process.poll()) is None:
            continue
          if status == 0:
            directory.write_whole(folder / "done" / job.name, job.identity())
          else:
            failed = "%s: failed with status %d; see %s"
            log.error(failed, job.name, status, path)
          states[job.name] = "failed" if status else "done"
          del running[job.name]
          held.close()
        elif any(states.get(name, "done") != "done" for name in job.after):
          states[job.name] = "skipped"
        elif len(running) < slots and states.keys() >= {*job.after}:
          try:
            held = directory.lock(folder / "locked" / job.name)
          except directory.RunError:
            continue  # jobs of an array share it, and the first one runs it
          if finished(folder, job):
            log.info("%s: finished before", job.name)
            states[job.name] = "done"
            held.close()
          else:
            with stopping.held():  # a process that starts is known below
              running[job.name] = held, _start(job, path, held)
      time.sleep(_LOOK_S)
  finally:
    for _, process in running.values():
      process.terminate()
    end = time.monotonic() + _GRACE_S
    for _, process in running.values():
      try:
        process.wait(max(0, end - time.monotonic()))
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
  return states


def _start(job: Job, path: pathlib.Path, held: IO) -> subprocess.Popen:
  """The process of a run, whose output goes to the file `path`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  log.info("%s: started, log in %s", job.name, path)
  with path.open("ab") as output:
    return subprocess.Popen(
      command(job),
      stdout=output,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # a signal reaches it once, from us
      pass_fds=(held.fileno(),),  # locked as long as it lives
    )
