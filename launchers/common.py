"""What every launcher shares: its directory, its environment, its end.

JAX's environment variables are set here and nowhere in the package.
"""

import contextlib
import errno
import logging as std_logging
import os
import pathlib
import shlex
import signal
import sys

from absl import app, flags, logging

from atlas_jax import gpus, secret_names, terminal
from atlas_jax.errors import AtlasError
from atlas_jax.files import FileError

from . import config_flag, hosts

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run. Run again with it to resume."
)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def local_only(flag: str) -> None:
  """Refuses a URL as the value of a flag that names a directory to write."""
  flags.register_validator(
    flag,
    lambda value: value is None or (value and "://" not in value),
    "must be a local directory, not a URL (config.checkpoints_dir may be one)",
  )


local_only("workdir")


def define_flags(workdir: bool = True) -> None:
  """Asks for --config, and for --workdir; call it on import."""
  config_flag.define()
  if workdir:
    flags.mark_flag_as_required("workdir")


def config(**changes):
  """The RunConfig of --config with top-level `changes`; see config.resolve."""
  from atlas_jax import config as config_lib

  tree = config_flag.tree()
  tree.update(changes)
  return config_lib.resolve(tree, _WORKDIR.value and workdir())


def workdir() -> pathlib.Path:
  return pathlib.Path(_WORKDIR.value).absolute()


def command() -> str:
  """What was typed, without keys."""
  name, given = pathlib.Path(sys.argv[0]).stem, sys.argv[1:]
  secret = set(secret_names.in_argv(tuple(given)))
  shown = ["[hidden]" if i in secret else a for i, a in enumerate(given)]
  return shlex.join(["python", "-m", f"launchers.{name}", *shown])


def server_key() -> str | None:
  """The bearer token of servers, from the environment or a file it names.

  Raises:
    FileError: the file cannot be read, or there is not one word.
  """
  key, path = (os.environ.get(f"ATLAS_SERVER_KEY{s}") for s in ("", "_FILE"))
  where = f"ATLAS_SERVER_KEY_FILE={path}" if path else "ATLAS_SERVER_KEY"
  try:
    words = (pathlib.Path(path).read_text() if path else key or "").split()
    if not (words or path):
      return None
    (key,) = words
    if not key.isprintable():
      raise ValueError
  except (OSError, ValueError) as error:
    why = getattr(error, "strerror", None) or "it must hold one word"
    raise FileError(f"{where}: {why}") from None
  return key


def take_gpus(config) -> None:
  """Holds JAX to the trainer's GPUs and share, before it starts."""
  visible = os.environ.get("CUDA_VISIBLE_DEVICES")
  os.environ.update(gpus.of_trainer(config, visible))
  if (split := gpus.split(config)) is not None:
    logging.info("%s", split)


def run_phases(config) -> None:
  """Runs the phases of a RunConfig, held to the trainer's GPUs and share."""
  take_gpus(config)
  # Imported late: a bad config is refused before JAX starts.
  from atlas_jax import phases

  phases.run_phases(config, workdir(), server_key(), command())


def _cache(root: pathlib.Path) -> pathlib.Path:
  """The checkout's; the user's where the project is installed."""
  if (root / "pyproject.toml").exists():
    return root / ".cache"
  home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return pathlib.Path(home) / "atlas_jax"


def _set_environment() -> None:
  """Sets defaults that a user's own environment overrides."""
  for key, value in {
    "JAX_COMPILATION_CACHE_DIR": str(_cache(config_flag.ROOT) / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    # JAX would leave a quarter of each GPU to nobody.
    "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{gpus.MOST}",
    "GRPC_VERBOSITY": "ERROR",
  }.items():
    os.environ.setdefault(key, value)


def _end(text: str, status: int = 1):
  logging.flush()
  print(f"error: {config_flag.shown(text)}", file=sys.stderr, flush=True)
  sys.exit(status)


class _Line(std_logging.Formatter):
  """HH:MM:SS, the level where it is worth a word, the message."""

  def formatMessage(self, record):
    info = record.levelno == std_logging.INFO
    level = "" if info else f"{record.levelname.lower()}: "
    return f"{self.formatTime(record, '%H:%M:%S')} {level}{record.message}"


def _set_up_logging() -> None:
  """The console has what --verbosity says; logs/run.log of a run has all."""
  console = logging.get_absl_handler()
  level = logging.converter.absl_to_standard(logging.get_verbosity())
  console.setLevel(level)
  console.setFormatter(_Line())
  std_logging.root.setLevel(std_logging.INFO)
  std_logging.getLogger("atlas_jax").setLevel(std_logging.DEBUG)
  # JAX names the backends it lacks. Orbax writes a page a checkpoint, and
  # pages of traceback about what it raises as well.
  std_logging.getLogger("jax").setLevel(std_logging.WARNING)
  std_logging.getLogger("absl").setLevel(std_logging.CRITICAL)


def launch(main) -> None:
  """Runs `main()`; an error of ours is one line and exit status 1."""

  def wrapped(argv):
    if argv[1:]:
      _end(f"unexpected arguments: {' '.join(argv[1:])}; flags begin with --")
    _set_up_logging()
    from atlas_jax.stopping import Stopped

    with contextlib.ExitStack() as stack:
      try:
        stack.enter_context(hosts.joined())
        main()
      except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        name = signal.Signals(number).name
        _end(f"stopped by {name}; the same command goes on", 128 + number)
      except (AtlasError, flags.Error) as error:
        _end(str(error))
      except OSError as error:  # of the user's disk, where it names a file
        if error.filename is None and error.errno not in _FULL:
          raise
        _end(f"{error.filename or 'a disk'}: {error.strerror}")

  _set_environment()
  # What --help lists: the launcher's own flags, and these.
  listed = [flags.FLAGS["config"]] if "config" in flags.FLAGS else []
  for module in (__name__, hosts.__name__, main.__module__):
    listed += flags.FLAGS.get_key_flags_for_module(module)
  for flag in listed:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  flags.FLAGS.set_default("verbosity", logging.INFO)
  obeys = os.environ.get("TERM") != "dumb"
  sys.stdout = terminal.Printable(sys.stdout, obeys)
  sys.stderr = terminal.Printable(sys.stderr, obeys)
  logging.get_absl_handler().python_handler.stream = sys.stderr
  app.run(wrapped, flags_parser=config_flag.parse)
