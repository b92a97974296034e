"""Two arms, of one run or of two, paired by problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atlas_jax.reports import reading, tables
from atlas_jax.reports.reading import RunFiles
from atlas_jax.reports.tables import ReportError
from atlas_jax.teaching import statistics
from atlas_jax.teaching.statistics import Interval

_HOW = {"resamples": 10_000, "seed": 0}  # of a bootstrap


@dataclass(frozen=True)
class Comparison:
  """What the first arm does beside the second, on the problems of both.

  Attributes:
    names: of the two arms.
    problems: how many both judged.
    accuracy: of the two, over those problems.
    differences: the first less the second, of each problem (the samples of a
      problem are one cluster).
    difference: their mean, with its interval over problems.
    mcnemar_p: that right and wrong are equally likely to flip.
    flips: problem id -> of reading.FLIPS, from the second to the first.
  """

  names: tuple[str, str]
  problems: int
  accuracy: tuple[float, float]
  differences: tuple[float, ...]
  difference: Interval
  mcnemar_p: float
  flips: Mapping[str, str]

  def rows(self) -> list[tuple[str, str]]:
    """(what, value) for a person."""
    found = list(self.flips.values())
    one, other = self.names
    return [
      ("Problems of both", str(self.problems)),
      (f"Accuracy: {one}", f"{100 * self.accuracy[0]:.1f}%"),
      (f"Accuracy: {other}", f"{100 * self.accuracy[1]:.1f}%"),
      ("Difference, points [95%]", tables.points(self.difference)),
      ("McNemar p", f"{self.mcnemar_p:.4g}"),
      *((name.capitalize(), str(found.count(name))) for name in reading.FLIPS),
    ]


def compare(
  run: RunFiles,
  other: RunFiles,
  *,
  arm: str | None = None,
  other_arm: str | None = None,
) -> Comparison:
  """Holds an arm of `run` beside an arm of `other`.

  Raises:
    ReportError: an arm is not there, or no problem was judged in both.
  """
  one, first = run.arm(arm)
  two, second = other.arm(other_arm)
  after, before = statistics.rates(first), statistics.rates(second)
  common = [key for key in after if key in before]
  if not common:
    raise ReportError(
      f"{run.workdir} and {other.workdir} judged no problem in common: were"
      " data and split the same?"
    )
  a = [after[key] for key in common]
  b = [before[key] for key in common]
  return Comparison(
    names=(f"{run.workdir.name}: {one}", f"{other.workdir.name}: {two}"),
    problems=len(common),
    accuracy=(sum(a) / len(a), sum(b) / len(b)),
    differences=tuple(x - y for x, y in zip(a, b, strict=True)),
    difference=statistics.paired_bootstrap(b, a, **_HOW),
    mcnemar_p=statistics.mcnemar([x > 0.5 for x in b], [x > 0.5 for x in a]),
    flips=reading.flips_of(before, after),
  )


def over_seeds(seeds: Sequence[Comparison]) -> list[tuple[str, str]]:
  """(what, value) of the same comparison in runs that differ by their seeds."""

  def accuracy(side: int) -> tuple[str, str]:
    found = [100 * one.accuracy[side] for one in seeds]
    names = ", ".join(dict.fromkeys(one.names[side] for one in seeds))
    spread = np.std(found, ddof=1)
    return f"Accuracy: {names}", f"{np.mean(found):.1f}% ± {spread:.1f} (sd)"

  differences = [one.differences for one in seeds]
  difference = statistics.nested_bootstrap(differences, **_HOW)
  return [
    ("Seeds", str(len(seeds))),
    *map(accuracy, (0, 1)),
    ("Difference [95% over seeds and problems]", tables.points(difference)),
  ]


def selected(
  run: RunFiles,
  *,
  arm: str | None = None,
  flip: str | None = None,
  kind: str | None = None,
  text: str | None = None,
  failures: bool = False,
) -> Sequence[Mapping]:
  """The attempts of an arm that pass every filter that is given.

  Args:
    run: where they are.
    arm: its title; None: the last.
    flip: of reading.FLIPS.
    kind: the kind of the problem, as its source says it.
    text: stands in the question, the teaching or the answer.
    failures: only those that are wrong, not judged, leak, or lack their form.

  Raises:
    ReportError: the arm, the kind or the flip does not exist.
  """
  title, lines = run.arm(arm)
  kinds = {x["kind"] for x in lines if x["kind"] is not None}
  for name, value, valid in (
    ("flip", flip, reading.FLIPS),
    ("kind", kind, sorted(kinds)),
  ):
    if value is not None and value not in valid:
      raise ReportError(
        f"no {name} {value!r} in arm {title!r}; valid: {', '.join(valid)}"
      )
  by_problem = {} if title == run.alone[title] else reading.flips(run, title)

  def passes(line: Mapping) -> bool:
    solution = line["solution"]
    words = (line["question"], line["teaching"] or "", solution["text"])
    wrong = solution["score"] is None or solution["score"] <= 0.5
    unfit = line["status"] not in (None, "ok") or line["leaked"]
    return (
      (flip is None or by_problem.get(line["id"]) == flip)
      and (kind is None or line["kind"] == kind)
      and (text is None or any(text in word for word in words))
      and (not failures or wrong or unfit)
    )

  return [line for line in lines if passes(line)]
