"""Prints episodes of a run's evaluation: problem, probe, teaching, answers.

python -m launchers.show --workdir=runs/quickstart/teacher --failures -n 5
python -m launchers.show --workdir=runs/a --flip=broken \
      --arm="teacher after sft"

With --atif=DIR all that pass the filters are written in place of printed, a
file each, as ATIF: a transcript format that viewers of agents read.
"""

import pathlib

from absl import flags

from . import common

_ARM = flags.DEFINE_string("arm", None, "Its title; default: the last.")
_FLIP = flags.DEFINE_string(
  "flip", None, "fixed, broken, 'still right' or 'still wrong'."
)
_KIND = flags.DEFINE_string("kind", None, "The kind of problem.")
_TEXT = flags.DEFINE_string("text", None, "What the episode must hold.")
_FAILURES = flags.DEFINE_bool(
  "failures", False, "Only wrong, unjudged, leaking or malformed ones."
)
_NUMBER = flags.DEFINE_integer(
  "number", 10, "Episodes to print.", short_name="n", lower_bound=1
)
_ATIF = flags.DEFINE_string("atif", None, "Directory to write ATIF files to.")
flags.mark_flag_as_required("workdir")


def main():
  from atlas_jax.reports import atif, comparing, reading

  run = reading.read(common.workdir())
  found = comparing.selected(
    run,
    arm=_ARM.value,
    flip=_FLIP.value,
    kind=_KIND.value,
    text=_TEXT.value,
    failures=_FAILURES.value,
  )
  if _ATIF.value is not None:
    atif.write(run, found, pathlib.Path(_ATIF.value))
    print(f"{_ATIF.value}: {len(found)} episodes")
    return
  alone = {
    (x["student"], x["id"], x["sample"]): x["solution"]
    for x in run.attempts
    if x["arm"] == run.alone[x["arm"]]
  }
  for line in found[: _NUMBER.value]:
    key = line["student"], line["id"], line["sample"]
    solution = line["solution"]
    print(f"== {line['id']} sample {line['sample']}: {solution['status']}")
    for name, text in (
      ("problem", line["question"]),
      ("right answer", line["answer"]),
      ("probe", line["probe"]),
      ("teacher", line["teacher_text"]),
      (f"teaching ({line['status']})", line["teaching"]),
      ("alone", alone.get(key, {}).get("text")),
      ("answer", solution["text"]),
    ):
      if text is not None:
        print(f"-- {name}\n{text}")
    print()
  print(f"{min(len(found), _NUMBER.value)} of {len(found)} episodes")


if __name__ == "__main__":
  common.launch(main)
