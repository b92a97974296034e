"""Models and data sets by their names on the Hugging Face Hub.

A name is ORG/NAME or ORG/NAME@REVISION. huggingface_hub finds what it means:
in its cache or on the network, by HF_TOKEN, HF_HUB_OFFLINE and the like.
  1. A directory (or file) of that name is taken first.
  2. What is whole in the cache is used as it is, without the network.
  3. Nothing that could be run comes along: no .py, no pickles.
"""

import functools
import logging
import os
import pathlib
import re

from atlas_jax.errors import AtlasError

log = logging.getLogger(__name__)

_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", re.ASCII)
_FILE = re.compile(r".*\.(jsonl?|csv|tsv|parquet|txt)")
_DATA = ("*.json", "*.jsonl", "*.csv", "*.tsv", "*.parquet", "*.md", "*.yaml")
_WANTED = {
  "model": ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"),
  "dataset": _DATA,
}


class HubError(AtlasError):
  """Neither a directory nor what the Hub has; the text says which and why."""


def is_name(path: str) -> bool:
  """Whether only the Hub can have `path`."""
  named = _NAME.fullmatch(path) and not _FILE.fullmatch(path)
  return bool(named) and not os.path.exists(path)


def pinned(path: str) -> str:
  """The name of a model with the commit that it means now."""
  return f"{path.partition('@')[0]}@{directory(path, 'model').name}"


def directory(path: str | os.PathLike, kind: str) -> pathlib.Path:
  """Where the files of a model or data set are on this machine.

  Args:
    path: of a directory, or a name.
    kind: model or dataset.

  Raises:
    HubError: it is neither, or cannot be had.
  """
  path = os.fspath(path)
  if os.path.exists(path):
    return pathlib.Path(path)
  if not is_name(path):
    raise HubError(
      f"{path} is neither a directory nor the name of a {kind} on the Hugging"
      " Face Hub (ORG/NAME, ORG/NAME@REVISION)"
    )
  import huggingface_hub

  repository, revision = _NAME.fullmatch(path).groups()
  find = functools.partial(
    huggingface_hub.snapshot_download,
    repository,
    repo_type=kind,
    revision=revision,
    allow_patterns=_WANTED[kind],
  )
  try:
    try:
      found = find(local_files_only=True)
    except huggingface_hub.errors.LocalEntryNotFoundError:
      found = find()
  except Exception as error:  # of the network, the name, the rights, the disk
    why = " ".join(str(error).split())[:300]
    raise HubError(
      f"{path} is no directory here, and the Hugging Face Hub does not give a"
      f" {kind} of that name: {why}"
    ) from None
  log.info("the %s %s is in %s", kind, path, found)
  return pathlib.Path(found)
