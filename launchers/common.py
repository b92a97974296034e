"""What every launcher shares: flags, environment, one-line errors.

JAX's environment variables are set here and nowhere in the package.
"""

import logging as std_logging
import os
import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from atlas_jax import files, terminal

_CONFIG = None
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run. Run again with it to resume."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  None,
  "HOST:PORT of process 0 when several processes train together; on TPU"
  " pods and under SLURM 'auto' finds it.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is.")
# Where configs/ lies: the checkout, or the package atlas_jax.
_ROOT = pathlib.Path(__file__).resolve().parent.parent


def define_flags(workdir: bool = True) -> None:
  """Declares --config and asks for --workdir; call it on import."""
  global _CONFIG
  _CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file under configs/, as FILE.py or FILE.py:VARIANT."
  )
  parser = flags.FLAGS["config"].parser
  parse = parser.parse
  parser.parse = lambda path: parse(_found(path))
  flags.mark_flags_as_required(["config"] + ["workdir"] * workdir)


def _found(path: str) -> str:
  """`path`, or the config of that name that is installed with this file."""
  file = path.split(":", 1)[0]
  inside = pathlib.PurePath(file).parts[:1] == ("configs",)
  if inside and not os.path.exists(file) and (_ROOT / file).is_file():
    return str(_ROOT / path)
  return path


def tree():
  """The ConfigDict of --config with its flags, for configs of other kinds."""
  return _CONFIG.value


def config(**changes):
  """The resolved RunConfig of --config, with top-level `changes`.

  Raises:
    ConfigError: an unknown key, a wrong type or value.
    PromptError: the file of config.prompts_path holds no prompts.
  """
  from atlas_jax import config as config_lib

  changed = tree()
  changed.update(changes)
  run = None if _WORKDIR.value is None else workdir()
  return resolved(config_lib.resolve, changed, run)


def resolved(resolve, tree, run: pathlib.Path | None):
  """`resolve(tree)` with the templates of its prompts_path, if it has one.

  They are in the config.json of `run` from then on: it goes on with those that
  it began with, whatever has become of the file.
  """
  import dataclasses

  path = tree.prompts_path
  if path is None:
    return resolve(tree)
  from atlas_jax.online.best_prompts import load_prompts

  prompts = None if run is None else _prompts_of(run, path)
  if prompts is None:
    prompts = dataclasses.asdict(load_prompts(path))
  tree = tree.copy_and_resolve_references()
  tree.prompts_path = None
  tree.prompts.update(prompts)
  return dataclasses.replace(resolve(tree), prompts_path=path)


def _prompts_of(run: pathlib.Path, path: str) -> dict[str, str] | None:
  """The templates that `run` took from `path`."""
  file = run / "config.json"
  if not file.exists():
    return None
  content = files.read_json(file)
  return content["prompts"] if content.get("prompts_path") == path else None


def workdir() -> pathlib.Path:
  return pathlib.Path(_WORKDIR.value).absolute()


def server_key() -> str | None:
  """The bearer token of servers that another process started."""
  return os.environ.get("ATLAS_SERVER_KEY")


def _cache() -> pathlib.Path:
  """The checkout's; the user's where the project is installed."""
  if (_ROOT / "pyproject.toml").exists():
    return _ROOT / ".cache"
  home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  return pathlib.Path(home) / "atlas_jax"


def _environment() -> None:
  """Defaults that a user's own environment overrides."""
  for key, value in {
    "JAX_COMPILATION_CACHE_DIR": str(_cache() / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "GRPC_VERBOSITY": "ERROR",
  }.items():
    os.environ.setdefault(key, value)


def _initialize_hosts() -> None:
  if _COORDINATOR.value is not None:
    # Brings JAX, which the online half does without.
    from atlas_jax import multihost

    address = None if _COORDINATOR.value == "auto" else _COORDINATOR.value
    multihost.initialize(address, _NUM_PROCESSES.value, _PROCESS_ID.value)


def parse_flags(argv):
  """What absl's own parser does, with an error of the input as one line."""
  try:
    rest = flags.FLAGS(argv)
  except (AttributeError, KeyError) as error:  # as ml_collections says it
    unknown = _unknown_key(argv, str(error))
    if unknown is None:
      raise
    _end(unknown)
  except flags.Error as error:
    first, *more = str(error).strip().splitlines()
    last = more[-1].strip() if more else ""
    if more and not last.startswith("ValueError: "):
      raise  # of the config file: its traceback tells
    _end(" ".join([first, last.removeprefix("ValueError: ")]).strip())
  try:
    if _CONFIG is not None:
      hasattr(_CONFIG.value, "keys")
  except OSError as error:  # there is no such file
    _end(" ".join(str(error).split()))
  return rest


def _unknown_key(argv, text: str) -> str | None:
  """The error of a --config.KEY that there is not; None: another error."""
  lost = re.search(r"'(\w+)", text)
  given = [a.split("=")[0] for a in argv if a.startswith("--config.")]
  keys = [key for key in given if lost and lost[1] in key.split(".")]
  if not keys:
    return None
  meant = re.search(r'Did you mean "(\w+)"', text)
  guess = "" if meant is None else f" (did you mean {meant[1]}?)"
  return f"{keys[0]} names no key{guess}; they are in configs/README.md"


def _end(text: str):
  logging.flush()
  print(f"error: {text}", file=sys.stderr, flush=True)
  sys.exit(1)


def launch(main) -> None:
  """Runs `main(argv)`; an error of ours is one line and exit status 1."""

  def wrapped(argv):
    if argv[1:]:
      raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    # Orbax writes a page a checkpoint, JAX names the backends it lacks.
    for talkative in ("absl", "jax"):
      std_logging.getLogger(talkative).setLevel(std_logging.WARNING)
    try:
      _initialize_hosts()
      main()
    except Exception as error:
      if not type(error).__module__.startswith("atlas_jax"):
        raise
      _end(str(error))

  _environment()
  sys.stdout = terminal.Printable(sys.stdout)
  sys.stderr = terminal.Printable(sys.stderr)
  logging.get_absl_handler().python_handler.stream = sys.stderr
  app.run(wrapped, flags_parser=parse_flags)
