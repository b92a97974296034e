"""What every launcher shares: flags, environment, one-line errors.

JAX's environment variables are set here and nowhere in the package.
"""

import logging as std_logging
import os
import pathlib
import re
import signal
import socket
import sys
import threading

from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from atlas_jax import files, terminal
from atlas_jax.errors import AtlasError

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
_COORDINATOR_TIMEOUT = flags.DEFINE_integer(
  "coordinator_timeout_s",
  300,
  "Until all processes must have met.",
  lower_bound=1,
)
# How many processes a launcher of clusters started, by its own account.
_TASKS = (
  *("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
  *("JAX_NUM_PROCESSES", "WORLD_SIZE"),
)
# Where configs/ lies: the checkout, or the package atlas_jax.
_ROOT = pathlib.Path(__file__).resolve().parent.parent


def local_only(flag: str) -> None:
  """Refuses a URL as the value of a flag that names a directory to write."""
  flags.register_validator(
    flag,
    lambda value: value is None or "://" not in value,
    "must be a local directory, not a URL (config.checkpoints_dir may be one)",
  )


local_only("workdir")


class _OrNone(flags.ArgumentParser):
  """The parser of a number, for whom nothing, or None, is None.

  Whether a key may be None is said when the config is resolved.
  """

  def __init__(self, parser: flags.ArgumentParser):
    self.syntactic_help = parser.syntactic_help
    self._parser = parser

  def parse(self, argument):
    return None if argument in ("", "None") else self._parser.parse(argument)

  def flag_type(self):
    return self._parser.flag_type()


class _Tuple(flags.ArgumentParser):
  """A tuple in one flag; given twice, the last one holds, as for other keys.

  (That of ml_collections runs all that were given.)
  """

  def parse(self, argument):
    return () if argument == "" else tuple_parser.TupleParser().parse(argument)

  def flag_type(self):
    return "tuple"


def define_flags(workdir: bool = True) -> None:
  """Declares --config and asks for --workdir; call it on import."""
  global _CONFIG
  for kind, parser in (
    (float, _OrNone(flags.FloatParser())),
    (int, _OrNone(flags.IntegerParser())),
    (tuple, _Tuple()),
  ):
    config_flags.register_flag_parser_for_type(kind, parser)
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
  from atlas_jax.teaching.prompts import load_prompts

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
  given = _NUM_PROCESSES.value, _PROCESS_ID.value
  if _COORDINATOR.value is None:
    if given != (None, None):
      _end(
        "--num_processes and --process_id need --coordinator: HOST:PORT of"
        " process 0, or auto"
      )
    for name in _TASKS:
      if os.environ.get(name, "1") != "1":
        std_logging.warning(
          "%s=%s, and without --coordinator=auto or HOST:PORT each process"
          " trains alone",
          name,
          os.environ[name],
        )
    return
  # Brings JAX, which the online half does without.
  from atlas_jax import multihost

  value, seconds = _COORDINATOR.value, _COORDINATOR_TIMEOUT.value
  host, _, port = value.rpartition(":")

  def late():
    # JAX would abort without saying who is missing.
    print(
      f"error: --coordinator={value}: not all processes met there within"
      f" {seconds} s; was each started, and can it reach process 0?",
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)

  timer = threading.Timer(seconds, late)
  timer.daemon = True
  try:
    if value != "auto":
      if None in given or not 0 <= given[1] < given[0]:
        raise ValueError("needs --num_processes=N and --process_id of 0 to N-1")
      socket.getaddrinfo(host, int(port))
    timer.start()
    address = None if value == "auto" else value
    multihost.initialize(address, *given, timeout_s=seconds + 60)
  except (RuntimeError, ValueError, OSError) as error:
    hint = "; auto finds TPU pods and SLURM" if value == "auto" else ""
    _end(f"--coordinator={value}: {' '.join(str(error).split())}{hint}")
  finally:
    timer.cancel()


def parse_flags(argv):
  """What absl's own parser does, with an error of the input as one line."""
  try:
    rest = flags.FLAGS(argv)
  except SystemExit:  # --help and its kin have printed; absl ends with 1
    sys.exit(0)
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
  given = [a.split("=")[0] for a in argv if re.match("--?config\\.", a)]
  wrong = [key for key in given if lost and lost[1] in key.split(".")]
  configs = [a.split("=", 1)[1] for a in argv if re.match("--?config=", a)]
  if not wrong or not configs:
    return None
  from atlas_jax import config_tree

  keys = config_tree.dotted(flags.FLAGS["config"].parser.parse(configs[0]))
  hint = config_tree.meant(wrong[0].split(".", 1)[1], keys)
  return f"{wrong[0]} names no key{hint}; they are in configs/README.md"


def _end(text: str, status: int = 1):
  logging.flush()
  print(f"error: {text}", file=sys.stderr, flush=True)
  sys.exit(status)


def launch(main) -> None:
  """Runs `main(argv)`; an error of ours is one line and exit status 1."""

  def wrapped(argv):
    if argv[1:]:
      raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    # JAX names the backends it lacks. Orbax writes a page a checkpoint, and
    # pages of traceback about what it raises as well.
    std_logging.getLogger("jax").setLevel(std_logging.WARNING)
    std_logging.getLogger("absl").setLevel(std_logging.CRITICAL)
    from atlas_jax.stopping import Stopped

    try:
      _initialize_hosts()
      main()
    except (Stopped, KeyboardInterrupt) as stop:
      number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
      name = signal.Signals(number).name
      _end(f"stopped by {name}; the same command goes on", 128 + number)
    except AtlasError as error:
      _end(str(error))

  _environment()
  # What --help lists: the launcher's own flags, and these.
  listed = [] if _CONFIG is None else [flags.FLAGS["config"]]
  for module in (__name__, main.__module__):
    listed += flags.FLAGS.get_key_flags_for_module(module)
  for flag in listed:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  sys.stdout = terminal.Printable(sys.stdout)
  sys.stderr = terminal.Printable(sys.stderr)
  logging.get_absl_handler().python_handler.stream = sys.stderr
  app.run(wrapped, flags_parser=parse_flags)
