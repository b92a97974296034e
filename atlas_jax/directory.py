"""The run directory: one config, one process, files written whole.

config.json  started.json  run_id  logs/  checkpoints/PHASE/  weights/
episodes/PHASE.jsonl  metrics.jsonl  tensorboard/  report/

run_id is one word, drawn at the first start: the run's name elsewhere (W&B,
config.checkpoints_dir), under any name of the directory.
The directory itself may be a link; what a run writes in it lies there.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import logging
import pathlib
import platform
import re
import secrets

from etils import epath

import atlas_jax
from atlas_jax import config as config_lib
from atlas_jax import config_tree, files, terminal
from atlas_jax.errors import AtlasError

# What stands there, by its name up to the first dot.
NAMES = {
  *("lock", "config", "metrics", "record", "candidates", "best_prompts"),
  *("costs", "checkpoints", "episodes", "export", "export-adapter"),
  *("failed", "initial", "initial-adapter"),
  *("logs", "report", "run_id", "started", "tensorboard", "weights"),
}
# What a person looks at when a run has ended.
RESULTS = (
  *("report/index.html", "best_prompts.json", "export", "metrics.jsonl"),
  "logs/run.log",
)

log = logging.getLogger(__name__)


class RunError(AtlasError):
  """The run directory cannot be used; the text says why."""


def write_whole(path: pathlib.Path, text: str) -> None:
  """Writes `text` so that a reader finds the old file or the new one."""
  with files.replacing(path) as file:
    file.write(text.encode())


def write_json(path: pathlib.Path, value) -> None:
  write_whole(path, json.dumps(value, indent=2, allow_nan=True) + "\n")


def lock(workdir: pathlib.Path):
  """An open file that holds the directory until it is closed, or we die.

  Raises:
    RunError: another process holds it.
    FileError: something in it lies elsewhere.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  files.check_directory(workdir, NAMES)
  handle = open(workdir / "lock", "a")  # noqa: SIM115 the caller closes it
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    handle.close()
    raise RunError(
      f"{workdir} is in use by another run; wait for it or choose another"
      " --workdir"
    ) from None
  return handle


# Where a server runs.
OF_SERVERS = (
  *("url", "urls", "host", "port", "kv_cache_bytes", "cpu_cores"),
  *("gpus", "gpu_memory_fraction"),
  *("replicas", "tensor_parallel"),
)
# Where and how a run runs, not what it computes: free to change on a resume.
OPERATIONAL = (
  "mesh",
  "wandb_project",
  "keep_checkpoints",
  "evaluate.student_urls",
  "prompts_path",  # its texts are in `prompts`
  "serving.start_timeout_s",
  "serving.request_timeout_s",
  "serving.retries",
  "serving.weights",
  "serving.restarts",
  "serving.max_concurrency",
  "serving.max_logprob_gap",
  *(
    f"serving.{role}.{key}"
    for role in ("teacher", "student")
    # Problems that are too long for max_model_len left at the start.
    for key in (*OF_SERVERS, "max_model_len")
  ),
)


def check_config(
  workdir: pathlib.Path, config: dict, operational=OPERATIONAL
) -> None:
  """A config.json that is there must compute the same.

  Args:
    workdir, config: the run.
    operational: dotted keys, of sections too, that may differ.

  Raises:
    RunError: the directory belongs to a run with another config; the text
      holds the difference.
  """
  path = workdir / "config.json"
  if path.exists():
    before = files.read_json(path, RunError)
    changes = [
      f"-{key}: {json.dumps(was)}\n+{key}: {json.dumps(now)}"
      for key, was, now in config_tree.difference(
        before, json.loads(json.dumps(config))
      )
      if not f"{key}.".startswith(tuple(f"{o}." for o in operational))
    ]
    if changes:
      raise RunError(
        f"{path} was written by another config; choose another --workdir or"
        " undo these changes:\n" + "\n".join(changes)
      )


def claim(workdir: pathlib.Path, config: dict, operational=OPERATIONAL) -> None:
  """Writes config.json, after `check_config`."""
  check_config(workdir, config, operational)
  write_json(workdir / "config.json", config)


def write_started(workdir: pathlib.Path, command: str | None) -> None:
  """Writes started.json: how and with which versions the run was started last.

  Args:
    workdir: of the run.
    command: as it was typed; None: it was started by a program.
  """
  versions = {
    name: importlib.metadata.version(name)
    for name in ("jax", "flax", "optax", "transformers")
  }
  write_json(
    workdir / "started.json",
    {
      "Command": command,
      "Started": datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
      "Versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
      "atlas_jax": atlas_jax.__version__,
      "Python": platform.python_version(),
    },
  )


@contextlib.contextmanager
def logging_to(workdir: pathlib.Path):
  """Appends what is logged in this process to logs/run.log."""
  path = workdir / "logs" / "run.log"
  path.parent.mkdir(exist_ok=True)
  with path.open("a", encoding="utf-8") as file:
    handler = logging.StreamHandler(terminal.Printable(file))
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(form))
    logging.root.addHandler(handler)
    try:
      yield
    except BaseException as error:
      # A launcher shows one line of an OSError, whosever fault it is.
      ended = "ended by %s: %s", type(error).__name__, error
      log.debug(*ended, exc_info=isinstance(error, OSError))
      raise
    finally:
      logging.root.removeHandler(handler)


def results(workdir: pathlib.Path) -> str:
  """The paths of what a run has left for a person, a line each."""
  paths = [workdir / name for name in RESULTS]
  return "\n  ".join(["results:", *(str(p) for p in paths if p.exists())])


def run_id(workdir: pathlib.Path) -> str:
  """The run's name elsewhere; drawn when it has none yet."""
  path = workdir / "run_id"
  if not path.exists():
    write_whole(path, secrets.token_hex(6))
  found = path.read_text(encoding="utf-8", errors="replace")
  if not re.fullmatch("[0-9a-f]{12}", found):
    raise RunError(
      f"{path} holds {found[:40]!r} and not a run's id; put its own back, or"
      " remove the file: elsewhere it is then another run"
    )
  return found


def checkpoints_root(config: config_lib.RunConfig, workdir) -> epath.Path:
  """The directory, maybe a URL, that holds one for each phase."""
  return epath.Path(
    config.checkpoints_dir or workdir.absolute() / "checkpoints"
  )


def claim_checkpoints(
  config: config_lib.RunConfig, workdir, *, write: bool = True
) -> None:
  """Marks config.checkpoints_dir as this run's; before `claim`.

  Without `write` it is only looked at.

  Raises:
    RunError: it cannot be used, is another run's, or has been exchanged.
  """
  begun = (workdir / "config.json").exists()
  mine = run_id(workdir) if write or (workdir / "run_id").exists() else None
  if config.checkpoints_dir is None:
    return
  key = f"config.checkpoints_dir={config.checkpoints_dir}"
  try:
    if not config.checkpoints_dir.startswith(("/", "gs://")):  # Orbax's
      raise ValueError("neither an absolute path nor a URL of gs://")
    mark = checkpoints_root(config, workdir) / "run_id"
    if write and not begun and not mark.exists():
      mark.parent.mkdir(parents=True, exist_ok=True)
      mark.write_text(mine)
    owner = mark.read_text() if mark.exists() else None
  except Exception as error:  # of whatever library knows the URL
    raise RunError(f"{key} cannot be used: {error}") from None
  if owner != mine and (write or begun or owner is not None):
    what = "is not that of this run" if begun else "belongs to another run"
    raise RunError(f"{key} {what}: {mark} holds {owner}, not {mine}")


def read_config(workdir: pathlib.Path) -> config_lib.RunConfig:
  """The config of the run in `workdir`.

  Raises:
    RunError: there is no run.
    ConfigError: its config.json is not valid (any more).
  """
  path = workdir / "config.json"
  if not path.exists():
    raise RunError(f"{workdir} is not a run directory: it has no config.json")
  try:
    return config_lib.resolve(files.read_json(path, RunError), workdir)
  except config_tree.ConfigError as error:
    raise config_tree.ConfigError(f"{path}: {error}") from None
