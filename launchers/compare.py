"""Compares two evaluations, paired by problem: difference, interval, flips.

  python -m launchers.compare --workdir=runs/a --against=runs/b
  python -m launchers.compare --workdir=runs/a --against=runs/a \
      --arm="teacher after grpo" --against_arm="teacher after sft"
"""

import pathlib

from absl import flags

from . import common

_AGAINST = flags.DEFINE_string("against", None, "The other run.")
_ARM = flags.DEFINE_string("arm", None, "Of --workdir; default: its last.")
_AGAINST_ARM = flags.DEFINE_string(
  "against_arm", None, "Of --against; default: its last."
)
_JSON = flags.DEFINE_bool("json", False, "Print JSON, flips by problem in it.")
flags.mark_flags_as_required(["workdir", "against"])


def main():
  import dataclasses
  import json

  from atlas_jax.reports import comparing, reading

  found = comparing.compare(
    reading.read(common.workdir()),
    reading.read(pathlib.Path(_AGAINST.value).absolute()),
    arm=_ARM.value,
    other_arm=_AGAINST_ARM.value,
  )
  if _JSON.value:
    print(json.dumps(dataclasses.asdict(found), indent=2))
    return
  for what, value in found.rows():
    print(f"{what}: {value}")
  for flip in ("fixed", "broken"):
    ids = [key for key, name in found.flips.items() if name == flip]
    print(f"{flip}: {' '.join(ids) or '-'}")


if __name__ == "__main__":
  common.launch(main)
