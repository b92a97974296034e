"""The flag --config of a launcher with its keys, and errors of any flag."""

import os
import pathlib
import re
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_flags as parsers
from ml_collections.config_flags import tuple_parser

from atlas_jax import scrubbing
from atlas_jax.errors import one_line

_CONFIG = None
# The file of --config as it was typed -> its ConfigDict; None: it has failed.
_read: dict[str, ConfigDict | None] = {}
# Where configs/ lies: the checkout, or the package atlas_jax.
ROOT = pathlib.Path(__file__).resolve().parent.parent


class _OrNone(flags.ArgumentParser):
  """A parser for whom nothing, or None, is None; it says what is valid.

  Whether a key may be None is said when the config is resolved.
  """

  def __init__(self, parser: flags.ArgumentParser, valid: str):
    self.syntactic_help = parser.syntactic_help
    self._parser, self._valid = parser, valid

  def parse(self, argument):
    if argument in ("", "None"):
      return None
    try:
      return self._parser.parse(argument)
    except (TypeError, ValueError):
      raise ValueError(f"valid: {self._valid}") from None

  def flag_type(self):
    return self._parser.flag_type()


class _Keys(parsers._ConfigDictParser):
  """A dictionary in one flag."""

  def parse(self, argument):
    try:
      return super().parse(argument)
    except ValueError:
      raise ValueError("valid: {'KEY': VALUE, ...}") from None


class _Tuple(flags.ArgumentParser):
  """A tuple in one flag; given twice, the last one holds, as for other keys.

  (That of ml_collections runs all that were given.)
  """

  def parse(self, argument):
    return () if argument == "" else tuple_parser.TupleParser().parse(argument)

  def flag_type(self):
    return "tuple"


def define() -> None:
  """Declares --config; call it on import."""
  global _CONFIG
  for kind, parser in (
    (float, _OrNone(flags.FloatParser(), "a number")),
    (int, _OrNone(flags.IntegerParser(), "a whole number")),
    (bool, _OrNone(flags.BooleanParser(), "true, false")),
    (ConfigDict, _Keys()),
    (tuple, _Tuple()),
  ):
    config_flags.register_flag_parser_for_type(kind, parser)
  try:
    _CONFIG = config_flags.DEFINE_config_file(
      "config", None, "A file under configs/, as FILE.py or FILE.py:VARIANT."
    )
  except flags.Error as error:  # of a --flagfile, which this reads already
    sys.exit(f"error: {shown(str(error))}")
  parser = flags.FLAGS["config"].parser
  parse = parser.parse

  def read(path: str):
    _read[path] = None
    try:
      _read[path] = parse(_found(path))
    except SystemExit as stop:  # else taken for that of --help
      raise ValueError(f"the file ends the program: {stop.code}") from None
    return _read[path]

  parser.parse = read
  flags.mark_flag_as_required("config")


def _found(path: str) -> str:
  """`path`, or the config of that name that is installed with this file."""
  file = path.split(":", 1)[0]
  inside = pathlib.PurePath(file).parts[:1] == ("configs",)
  if inside and not os.path.exists(file) and (ROOT / file).is_file():
    return str(ROOT / path)
  return path


def tree():
  """The ConfigDict of --config with the keys that flags have changed."""
  return _CONFIG.value


def path() -> str:
  """The file of --config, with its variant if it names one."""
  return _found(config_flags.get_config_filename(flags.FLAGS["config"]))


def given() -> list[str]:
  """--config.KEY=VALUE of every key that a flag sets, however it is written."""
  values = config_flags.get_override_values(flags.FLAGS["config"])
  return [
    f"--config.{key}="
    f"{value.to_dict() if isinstance(value, ConfigDict) else value}"
    for key, value in values.items()
  ]


def shown(text: str) -> str:
  """The beginning of an error's text, without keys of the environment."""
  return scrubbing.error_text(scrubbing.scrubber(os.environ), text)


def _at_home(argument: str) -> str:
  """--flag=~/x as a shell has `--flag ~/x`: ~ is a home."""
  flag, _, value = argument.partition("=")
  if not (flag.startswith("-") and value.startswith("~")):
    return argument
  return f"{flag}={os.path.expanduser(value)}"


def parse(argv: list[str]) -> list[str]:
  """What absl's own parser does, with an error of the input as one line."""
  try:
    argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
    files = re.findall("^--?config[=\n](.*)", "\n".join(argv), re.MULTILINE)
    if len(files) > 1:
      raise flags.Error(f"--config is given twice: {' and '.join(files)}")
    rest = flags.FLAGS([_at_home(argument) for argument in argv])
    if _CONFIG is not None:
      hasattr(_CONFIG.value, "keys")  # reads the file
    return rest
  except SystemExit:  # --help and its kin have printed; absl ends with 1
    sys.exit(0)
  except (AttributeError, LookupError, ValueError) as error:  # of a key
    text = _unknown_key(argv, str(error))
    if text is None:
      raise
  except flags.Error as error:
    first, *more = str(error).strip().splitlines()
    last = more[-1].strip() if more else ""
    if more and not last.startswith("ValueError: "):
      raise  # of the config file: its traceback tells
    text = " ".join([first, last.removeprefix("ValueError: ")]).strip()
  except OSError as error:  # there is no such file
    text = one_line(error, None)
  sys.exit(f"error: {shown(text)}")


def _unknown_key(argv: list[str], text: str) -> str | None:
  """The error of a key that there is not; None: another error.

  It is one that a flag names, or an old section that the config file names.
  """
  from atlas_jax import config_tree

  if not _read:
    return None
  file, tree = [*_read.items()][-1]
  if tree is None:
    lost, *more = *re.findall(r"'(\w+)", text), ""
    if "get_config" in more:
      return f"{file} has no function get_config"
    if lost not in config_tree.RENAMED:
      return None
    new = config_tree.RENAMED[lost]
    return f"{file}: config.{lost} names no key; it is config.{new} now"
  keys = {*config_tree.dotted(tree)}
  given = (argument.split("=", 1)[0] for argument in argv)
  for flag in (flag for flag in given if re.match("--?config\\.", flag)):
    if (key := flag.split(".", 1)[1]) not in keys:
      hint = config_tree.meant(key, tree)
      return f"{flag} names no key{hint}; they are in configs/README.md"
  return None
