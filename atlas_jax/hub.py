"""Finds models and data sets by their names on the Hugging Face Hub.

A name is ORG/NAME or ORG/NAME@REVISION. huggingface_hub looks it up in its
cache or on the network, by HF_TOKEN, HF_HUB_OFFLINE and the like.
  1. A directory (or file) of that name is taken first.
  2. A snapshot of the cache is used without the network; one of a model only
     if it has the weights, where they are needed.
  3. No file that could be run is downloaded: no .py, no pickles.
"""

import functools
import logging
import os
import pathlib
import re

from atlas_jax.errors import AtlasError, one_line

log = logging.getLogger(__name__)

_WEIGHTS = "*.safetensors"
_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", re.ASCII)
_ENDINGS = {
  "model": ("json", "safetensors", "jinja", "model", "txt"),
  "dataset": ("json", "jsonl", "csv", "tsv", "parquet", "md", "yaml"),
}


class HubError(AtlasError):
  """A path that is no directory, and that the Hub does not have."""


def is_name(path: str) -> bool:
  """Whether a path is a name of the Hub and nothing on this machine."""
  ending = path.rpartition(".")[2]
  is_file = ending in (*_ENDINGS["dataset"], "txt") or os.path.exists(path)
  return bool(_NAME.fullmatch(path)) and not is_file


def pinned(path: str) -> str:
  """The name of a model with the commit that the name means now."""
  found = directory(path, "model", weights=False)
  return f"{path.partition('@')[0]}@{found.name}"


def directory(path: str | os.PathLike, kind: str, weights=True) -> pathlib.Path:
  """The directory of a model or data set on this machine.

  Args:
    path: of a directory, or a name of the Hub.
    kind: model or dataset.
    weights: whether those of a model are needed; else none are downloaded.

  Raises:
    HubError: it is neither, or the Hub does not give it.
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
    allow_patterns=[f"*.{ending}" for ending in _ENDINGS[kind]],
    ignore_patterns=None if weights else _WEIGHTS,
  )
  try:
    try:
      found = find(local_files_only=True)
      needed = weights and kind == "model"
      if needed and not any(pathlib.Path(found).glob(_WEIGHTS)):
        found = find()  # its tokenizer alone was read before
    except huggingface_hub.errors.LocalEntryNotFoundError:
      found = find()
  except Exception as error:  # of the network, the name, the rights, the disk
    why = one_line(error)
    raise HubError(
      f"{path} is no directory here, and the Hugging Face Hub does not give a"
      f" {kind} of that name: {why}"
    ) from None
  log.info("the %s %s is in %s", kind, path, found)
  return pathlib.Path(found)
