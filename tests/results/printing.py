"""Tables and samples of committed results, as guides print them.

evaluation FILE RUN [student=NAME]    an evaluation: its arms are columns
arms FILE RUN ...                     a line an arm, a column a kind
seeds FILE RUN ...                    a line a run of the quickstart
sweep FILE                            an ablation: runs are named ROW_seedN
less FILE RUN                         the last arm less the one before, by kind
samples FILE RUN                      attempts of the last arm, drawn by seed 0
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

from atlas_jax.data.teachable import PHRASES
from atlas_jax.reports import reading, sweeps, tables
from atlas_jax.reports.sweeps import Finished, Row
from atlas_jax.teaching import statistics
from atlas_jax.teaching.statistics import ArmResult, Interval
from tests.results import collecting

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARKED = re.compile(r"(<!-- results: (.*?) -->\n).*?(<!-- end -->)", re.S)
_SHOWN = (
  *("", "Accuracy [95%]", "Gain over alone, points [95%]"),
  *("Still right, of those right alone", "Student response tokens"),
  "Teaching tokens",
)
_SAID = ("Still right [95%]", "States the answer")
_SAID += ("Teaching tokens", "Distinct teachings")


def guides() -> list[pathlib.Path]:
  """Those that print results."""
  found = [ROOT / "README.md", *sorted(ROOT.glob("*/**/README.md"))]
  own = [p for p in found if not {".venv", "runs"} & {*p.parts}]
  return [p for p in own if MARKED.search(p.read_text(encoding="utf-8"))]


def rendered(text: str) -> str:
  """A guide's text, its tables made anew."""

  def make(found: re.Match) -> str:
    kind, file, *words = found[2].split(" ")
    runs = json.loads((ROOT / file).read_text(encoding="utf-8"))["runs"]
    return f"{found[1]}{KINDS[kind](runs, *words)}{found[3]}"

  return MARKED.sub(make, text)


def _percent(found: Interval) -> str:
  low, high = 100 * found.low, 100 * found.high
  return f"{100 * found.estimate:.1f}% [{low:.1f}, {high:.1f}]"


def _accuracy(arm: ArmResult) -> str:
  return _percent(Interval(arm.accuracy, arm.accuracy_low, arm.accuracy_high))


def evaluation(runs: Mapping, name: str, *words: str) -> str:
  """Of the run's own student, or of the one that is named."""
  run, student = runs[name], None
  for word in words:
    student = word.removeprefix("student=")
  results, arms = collecting.results_of(run), []
  for title in run["arms"] if student else run["shown"]:
    arm = title.removeprefix("best ")
    if run["arms"][arm]["student"] == student:
      shown = title.removeprefix(f"{student}: ")
      arms.append(dataclasses.asdict(results[arm]) | {"name": shown})
  found = {"problems": arms[0]["problems"], "split": run["split"], "arms": arms}
  cells = [row for row in tables.cells(found) if row[0] in _SHOWN]
  cells[0][0] = f"{found['problems']} problems"
  return tables.grid(cells)


def _correct(run: Mapping, title: str, stated: bool = True) -> dict:
  """problem -> the score of its attempt; not `stated`: 0 where it was."""
  return {
    line["id"]: line["solution"]["score"] if stated or not line["leaked"] else 0
    for line in collecting.attempts(run, title)
  }


def still_right(run: Mapping, title: str) -> str:
  """Of those right alone, with Wilson's interval."""
  alone = reading.titled(reading.ALONE, run["arms"][title]["student"])
  if title == alone:
    return "–"
  before, after = (_correct(run, x) for x in (alone, title))
  kept = [after[key] for key in after if before[key] == 1]
  if None in kept or not kept:
    return "–"
  return _percent(statistics.wilson(sum(x == 1 for x in kept), len(kept)))


def arms(runs: Mapping, *names: str) -> str:
  """Every arm of the runs once, by kind; the weaker constants left out."""
  first = collecting.attempts(runs[names[0]], reading.ALONE)
  kinds = sorted({x["kind"] for x in first if x["kind"] is not None})
  of_kind = [f"{k} ({sum(x['kind'] == k for x in first)})" for k in kinds]
  rows = [["", "All [95%]", "Gain over alone, points [95%]", *of_kind, *_SAID]]
  for run in map(runs.get, names):
    found = [collecting.results_of(run, kind) for kind in (None, *kinds)]
    best = [x.removeprefix("best ") for x in run["shown"]]
    for title, arm in found[0].items():
      if title.startswith("constant ") and title not in best:
        continue
      gain = (
        "–"
        if arm.gain is None
        else tables.points(Interval(arm.gain, arm.gain_low, arm.gain_high))
      )
      row = [title, _accuracy(arm), gain]
      row += [_accuracy(results[title]) for results in found[1:]]
      row += [still_right(run, title), f"{arm.leak_rate:.1%}"]
      said = collecting.texts(run["arms"][title]["teachings"])
      row += [f"{arm.teaching_tokens:.1f}", str(len({*said})) if said else "–"]
      if row not in rows:
        rows.append(row)
  return tables.grid(rows)


def less(runs: Mapping, name: str) -> str:
  """The last arm of a run less the one before it, paired by problem."""
  before, after = [*runs[name]["arms"]][-2:]
  lines = collecting.attempts(runs[name], reading.ALONE)
  kinds = {line["id"]: line["kind"] for line in lines}
  rows = [[f"{after}, less {before}", "Points [95%]", "Fixed", "Broken"]]

  def add(label: str, kind: str | None = None, stated: bool = True):
    ids = [key for key in kinds if kind in (None, kinds[key])]
    was, now = (
      _correct(runs[name], title, stated) for title in (before, after)
    )
    pair = [was[key] for key in ids], [now[key] for key in ids]
    change = statistics.paired_bootstrap(*pair, resamples=10_000, seed=0)
    flips = [b - a for a, b in zip(*pair, strict=True)]
    counts = [str(flips.count(one)) for one in (1, -1)]
    rows.append([f"{label} ({len(ids)})", tables.points(change), *counts])

  add("all")
  add("all; an answer that the teaching states is none", stated=False)
  for kind in sorted({*kinds.values()} - {None}):
    add(kind, kind)
  return tables.grid(rows)


def _spoken(text: str) -> list[str]:
  return re.findall(r"\w+", text.lower())


_PHRASES = [phrase for of in PHRASES.values() for phrase in of]
_VOCABULARY = {word for phrase in _PHRASES for word in _spoken(phrase)}


def seeds(runs: Mapping, *names: str) -> str:
  """Of the quickstart: how good, and in which words."""
  rows = [
    [
      *("Seed", "Alone", "After SFT [95%]", "After GRPO [95%]"),
      *("Still right [95%]", "Distinct teachings", "SFT's phrases"),
      *("New words", "KL", "Minutes"),
    ]
  ]
  for name in names:
    run = runs[name]
    alone, sft, grpo = (
      statistics.arm_result(
        *(title, collecting.attempts(run, title)),
        alone=None,
        resamples=1,
        seed=run["seed"],
      )
      for title in (reading.ALONE, "teacher after sft", "teacher after grpo")
    )
    said = collecting.texts(run["arms"][grpo.name]["teachings"])
    words = [word for text in said for word in _spoken(text or "")]
    new = sum(word not in _VOCABULARY for word in words) / len(words)
    whole = sum(text in _PHRASES for text in said) / len(said)
    rows.append(
      [
        *(name.removeprefix("seed"), f"{alone.accuracy:.1%}"),
        *(_accuracy(sft), _accuracy(grpo), still_right(run, grpo.name)),
        *(str(len({*said})), f"{whole:.0%}", f"{new:.1%}"),
        *(f"{run['kl']:.2f}", f"{run['seconds'] / 60:.1f}"),
      ]
    )
  return tables.grid(rows)


def sweep_rows(runs: Mapping) -> list[Row]:
  """The rows of an ablation, in the order of their first runs."""
  names = list(dict.fromkeys(name.rpartition("_seed")[0] for name in runs))
  numbers = sorted({run["seed"] for run in runs.values()})
  rows, first = [], {}
  for row in names:
    finished = {}
    for seed in (s for s in numbers if f"{row}_seed{s}" in runs):
      run = runs[f"{row}_seed{seed}"]
      title = [*run["arms"]][-1]
      alone, taught = collecting.attempts(run, reading.ALONE), title
      outcomes = collecting.attempts(run, taught)
      results = (
        statistics.arm_result(
          *(name, own), alone=base, resamples=1, seed=run["seed"]
        )
        for name, own, base in (
          (reading.ALONE, alone, None),
          (taught, outcomes, alone),
        )
      )
      rates = _correct(run, taught)
      finished[seed] = Finished(*map(dataclasses.asdict, results), rates)
    state = {s: "done" if s in finished else "not run" for s in numbers}
    rows.append(sweeps.row_of(row, state, finished, first))
    if row == names[0]:
      first = finished
  return rows


def sweep(runs: Mapping) -> str:
  """The table that the sweep printed."""
  return tables.grid(sweeps.cells(sweep_rows(runs)))


def said(runs: Mapping, name: str) -> str:
  """The distinct teachings, the most common first, and what they did."""
  run = runs[name]
  title = [*run["arms"]][-1]
  alone, taught = (
    [x["solution"]["score"] for x in collecting.attempts(run, arm)]
    for arm in (
      reading.titled(reading.ALONE, run["arms"][title]["student"]),
      title,
    )
  )
  rows: dict[str | None, list[int]] = {}
  spoken = collecting.texts(run["arms"][title]["teachings"])
  for text, before, after in zip(spoken, alone, taught, strict=True):
    row = rows.setdefault(text, [0, 0, 0, 0])
    row[0] += 1
    row[1] += before == 1
    row[2] += before == 0
    row[3] += after == 1
  ordered = sorted(rows.items(), key=lambda x: -x[1][0])
  heading = ["Teaching", "Said", "Right alone", "Wrong alone", "Right, taught"]
  return tables.grid([heading, *([str(x), *map(str, n)] for x, n in ordered)])


def samples(runs: Mapping, name: str) -> str:
  """Question, plan, teaching and answer; what was wrong is marked."""
  lines = []
  for one in runs[name]["samples"]:
    mark = "right" if one["right"] == 1 else "wrong"
    lines += [
      f"{key:9}{' '.join(str(one[key]).split())}"
      for key in ("question", "probe", "teaching")
    ]
    lines += [f"{mark:9}{' '.join(one['answer'].split())}", ""]
  return "```\n" + "\n".join(lines[:-1]) + "\n```\n"


KINDS: Mapping[str, Callable[..., str]] = {
  x.__name__: x for x in (evaluation, arms, less, seeds, sweep, said, samples)
}


def write(paths: Sequence[pathlib.Path]) -> None:
  """Renders guides anew."""
  for path in paths:
    text = path.read_text(encoding="utf-8")
    path.write_text(rendered(text), encoding="utf-8")
