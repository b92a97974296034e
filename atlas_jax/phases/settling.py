"""What a run finds at its first start, and keeps in its config from then on.

names of the Hub   with the commit that they meant: ORG/NAME@COMMIT
template_date      the day
data.fingerprint   of its problems and examples (of one data config)
"""

import dataclasses
import datetime
import operator
import pathlib
import re

from atlas_jax import directory, hub, multihost
from atlas_jax.config import RunConfig

_COMMIT = re.compile("@[0-9a-f]{40}$")


def settled(config: RunConfig, workdir: pathlib.Path) -> RunConfig:
  """`config` as the run in `workdir` began with it. A collective.

  Raises:
    HubError: a name is of nothing that can be had.
    RunError, ConfigError: the config.json there cannot be read.
  """
  found = multihost.call_on_lead(lambda: _found(config, workdir))
  for path, value in found.items():
    config = _with(config, path, value)
  return config


def _found(config: RunConfig, workdir: pathlib.Path) -> dict[str, str]:
  before = None
  if (workdir / "config.json").exists():
    before = directory.read_config(workdir)
  found = {}
  names = ["teacher.path"]
  if {"grpo", "evaluate"} & {*config.phases}:
    names.append("student.path")
  for path in names:
    name = operator.attrgetter(path)(config)
    if hub.is_name(name):
      was = operator.attrgetter(path)(before or config)
      same = was.partition("@")[0] == name.partition("@")[0]
      keep = same and _COMMIT.search(was) and not _COMMIT.search(name)
      found[path] = was if keep else hub.pinned(name)
  if config.template_date is None:
    was = None if before is None else before.template_date
    found["template_date"] = was or datetime.date.today().isoformat()
  if before is not None and before.data.fingerprint is not None:
    unmarked = dataclasses.replace(before.data, fingerprint=None)
    if config.data == unmarked:
      found["data.fingerprint"] = before.data.fingerprint
  return found


def _with(config, path: str, value):
  """`config` with another value at a dotted path."""
  key, _, rest = path.partition(".")
  if rest:
    value = _with(getattr(config, key), rest, value)
  return dataclasses.replace(config, **{key: value})
