"""Writes a run's report page: one HTML file that opens by a double click.

python -m launchers.report --workdir=runs/quickstart/teacher
python -m launchers.report --workdir=runs/a --against=runs/b --out=a.html
"""

import pathlib

from absl import flags

from . import common

_AGAINST = flags.DEFINE_string(
  "against", None, "A run whose config and results are held beside this one's."
)
_OUT = flags.DEFINE_string(
  "out", None, "The file to write; default: report/index.html of the run."
)
flags.mark_flag_as_required("workdir")


def main():
  from atlas_jax.reports import comparing, page, reading
  from atlas_jax.reports.tables import ReportError

  run = reading.read(common.workdir())
  options = {}
  if _AGAINST.value is not None:
    other = reading.read(pathlib.Path(_AGAINST.value).absolute())
    options["other"] = other
    try:
      options["compared"] = comparing.compare(run, other).rows()
    except ReportError as error:  # the configs can be compared all the same
      print(f"warning: {error}")
  out = pathlib.Path(_OUT.value or run.workdir / "report" / "index.html")
  size = page.write(run, out, **options)
  print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
  common.launch(main)
