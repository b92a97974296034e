"""Compares two evaluations, paired by problem: difference, interval, flips.

  python -m launchers.compare --workdir=runs/a --against=runs/b
  python -m launchers.compare --workdir=runs/a --against=runs/a \
      --arm="teacher after grpo" --against_arm="teacher after sft"

Several runs, which differ by their seeds, are compared pair by pair, and then
all together:

  python -m launchers.compare --workdir=runs/a0,runs/a1,runs/a2 \
      --against=runs/b0,runs/b1,runs/b2
"""

import pathlib

from absl import flags

from . import common

_AGAINST = flags.DEFINE_list("against", None, "The other run; one for each.")
_ARM = flags.DEFINE_string("arm", None, "Of --workdir; default: its last.")
_AGAINST_ARM = flags.DEFINE_string(
  "against_arm", None, "Of --against; default: its last."
)
flags.mark_flags_as_required(["workdir", "against"])


def main():
  from atlas_jax.reports import comparing, reading

  runs, others = flags.FLAGS.workdir.split(","), _AGAINST.value
  if len(runs) != len(others):
    raise flags.IllegalFlagValueError(
      f"--workdir names {len(runs)} runs and --against {len(others)}"
    )
  found = [
    comparing.compare(
      reading.read(pathlib.Path(run).absolute()),
      reading.read(pathlib.Path(other).absolute()),
      arm=_ARM.value,
      other_arm=_AGAINST_ARM.value,
    )
    for run, other in zip(runs, others, strict=True)
  ]
  for one in found:
    for what, value in one.rows():
      print(f"{what}: {value}")
    for flip in ("fixed", "broken"):
      ids = [key for key, name in one.flips.items() if name == flip]
      print(f"{flip}: {' '.join(ids) or '-'}")
  if len(found) > 1:
    for what, value in comparing.over_seeds(found):
      print(f"{what}: {value}")


if __name__ == "__main__":
  common.launch(main)
