"""Exports the newest teacher of a run as a Hugging Face directory.

  python -m launchers.export --workdir=runs/a --output=models/my-teacher

The config is the run's own, the devices are all that this machine shows
(CUDA_VISIBLE_DEVICES); the run must not be in progress.
"""

import pathlib

from absl import flags

from . import common

flags.mark_flag_as_required("workdir")
_OUTPUT = flags.DEFINE_string(
  "output", None, "Directory to write.", required=True
)
common.local_only("output")
_DTYPE = flags.DEFINE_enum(
  "dtype", "bfloat16", ["bfloat16", "float32"], "Of the weights."
)


def main():
  from atlas_jax.phases import export

  export.export_run(common.workdir(), pathlib.Path(_OUTPUT.value), _DTYPE.value)


if __name__ == "__main__":
  common.launch(main)
