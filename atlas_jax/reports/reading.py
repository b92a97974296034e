"""What a run wrote, read back: its evaluations, its episodes, its metrics.

An evaluation's attempts are the lines of episodes/INDEX_evaluate.jsonl, a GRPO
phase's episodes those of episodes/INDEX_grpo.jsonl (teaching/transcripts.py
says what a line holds). Arms that do not depend on the teacher are in the
file of the first evaluation, so the evaluations of a run are read as one:
each arm once, those of later teachers behind those of earlier ones. An
optimisation of prompts has one evaluation, report/optimize.json; its attempts
are the lines of episodes/test.jsonl.
"""

import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from atlas_jax import files, metrics
from atlas_jax.reports import tables
from atlas_jax.reports.tables import ReportError
from atlas_jax.teaching import statistics
from atlas_jax.teaching.prompts import fingerprint, prompts_config

# What is read of a line and of an evaluation (files.misfit), so that those of
# another version are refused by the name of what they lack.
_TEXT, _NUMBER = str | None, int | float | None
_SOLUTION = {
  **{"text": str, "tokens": int, "finish_reason": _TEXT, "status": str},
  **{"score": _NUMBER, "answer": _TEXT, "rule": str},
}
_PROBLEM = {"id": str, "question": str, "answer": str}
ATTEMPT = {
  **{"sample": int, "probe": _TEXT, "teacher_text": _TEXT, "teaching": _TEXT},
  **{"teaching_tokens": int, "status": _TEXT, "leaked": bool},
  **{"weight_version": str | _NUMBER, "seconds": int | float},
  "solution": _SOLUTION,
}
_TEACHING = {"text": str, "status": str, "leaked": bool, "taught": _SOLUTION}
TRAINED = _TEACHING | {
  **{"reward": _NUMBER, "reward_parts": dict, "weight_version": str | _NUMBER}
}
_EPISODE = _PROBLEM | {"probe": _TEXT, "baseline": list}
_ARM = {
  **{"name": str, "accuracy": _NUMBER, "gain": _NUMBER},
  **{"response_tokens": _NUMBER, "teaching_tokens": _NUMBER},
}
_EVALUATION = {"problems": int, "split": str, "arms": [_ARM]}

ALONE = "student alone"
# How a problem fares in an arm, beside the student alone.
FLIPS = ("fixed", "broken", "still right", "still wrong")


@dataclass(frozen=True)
class RunFiles:
  """What is read of a run.

  Attributes:
    workdir: its directory.
    config: config.json.
    evaluations: name of the phase -> report/NAME.json, in their order.
    attempts: the lines of all evaluations, one arm after the other; those of
      students that the run's teacher never met first.
    metrics: the lines of metrics.jsonl.
    note: what must be said beside the numbers of the evaluation.
  """

  workdir: pathlib.Path
  config: Mapping
  evaluations: Mapping[str, Mapping]
  attempts: Sequence[Mapping]
  metrics: Sequence[Mapping]
  note: str = ""

  @property
  def last(self) -> Mapping | None:
    """The newest evaluation; None where there is none."""
    return next(reversed(self.evaluations.values()), None)

  @functools.cached_property
  def alone(self) -> Mapping[str, str]:
    """Title of an arm -> of the arm in which its student is alone."""
    return {x["arm"]: titled(ALONE, x["student"]) for x in self.attempts}

  def arms(self) -> list[str]:
    """The titles of the arms, in the order of their attempts."""
    return list(dict.fromkeys(line["arm"] for line in self.attempts))

  def arm(self, title: str | None = None) -> tuple[str, list[Mapping]]:
    """The title and the attempts of an arm; None: the last one's.

    Raises:
      ReportError: there is none; the valid ones are listed.
    """
    titles = self.arms()
    if not titles:
      raise ReportError(f"{self.workdir} has no evaluation")
    title = titles[-1] if title is None else title
    if title not in titles:
      raise ReportError(
        f"{self.workdir} has no arm {title!r}; valid: {', '.join(titles)}"
      )
    return title, [line for line in self.attempts if line["arm"] == title]

  def training(self) -> Iterator[Mapping]:
    """The episodes of all GRPO phases, one line of a file at a time."""
    for path in _by_index(self.workdir / "episodes", "*_grpo.jsonl"):
      shape = {"step": int, "pass_rate": _NUMBER, "teachings": [TRAINED]}
      yield from _lines(path, _EPISODE | shape)


def titled(arm: str, student: str | None) -> str:
  """The title of an arm; student: one that the run's teacher never met."""
  return arm if student is None else f"{student}: {arm}"


def _fitting(value, shape: Mapping, where):
  """The value, if it has that shape; else ReportError, which names `where`."""
  if (what := files.misfit(value, shape)) is not None:
    raise ReportError(f"{where}: {what}; was it made by another version?")
  return value


def _lines(path: pathlib.Path, shape: Mapping) -> Iterator[Mapping]:
  """The lines of an episodes file, one at a time."""
  for number, line in enumerate(metrics.lines(path), start=1):
    if line.get("schema") in (None, 1, 2):
      raise ReportError(
        f"{path} is of an older version: its approach is probe now, its guided"
        " is taught; read it with that version"
      )
    yield _fitting(line, shape, f"{path}, episode {number}")


def _by_index(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  """The files of phases, named INDEX_PHASE, in the order of their indices."""

  def index(path: pathlib.Path) -> int:
    number = path.name.split("_")[0]
    return int(number) if number.isdigit() else 0

  return sorted(folder.glob(pattern), key=index)


def by_arm(evaluations: Iterable[Iterable[Mapping]]) -> dict[str, list]:
  """Name of an arm -> its lines, those of the newest evaluation that has it.

  Older versions sampled an arm again where nothing was trained between two.
  """
  found: dict[str, list] = {}
  for lines in evaluations:
    mine: dict[str, list] = {}
    for line in lines:
      mine.setdefault(line["arm"], []).append(line)
    found |= mine
  return found


def read(workdir: pathlib.Path) -> RunFiles:
  """Reads the run in `workdir`.

  Raises:
    ReportError: there is no run, or no evaluation and no metrics yet.
  """
  config = workdir / "config.json"
  if not config.exists():
    raise ReportError(f"{workdir} is not a run directory: no config.json")
  if (workdir / "report" / "optimize.json").exists():
    return _optimisation(workdir)
  lines = metrics.of_run(workdir)
  evaluations = {
    path.stem: _fitting(files.read_json(path, ReportError), _EVALUATION, path)
    for path in _by_index(workdir / "report", "*_evaluate.json")
  }
  paths = _by_index(workdir / "episodes", "*_evaluate.jsonl")
  shape = _PROBLEM | ATTEMPT | {"arm": str, "student": _TEXT, "kind": _TEXT}
  by_title = by_arm(_lines(path, shape) for path in paths)
  attempts = [line for arm in by_title.values() for line in arm]
  if not lines and not attempts:
    raise ReportError(
      f"{workdir} has neither metrics.jsonl nor an evaluation: nothing to show"
    )
  attempts.sort(key=lambda line: line["student"] is None)
  return RunFiles(
    workdir, files.read_json(config, ReportError), evaluations, attempts, lines
  )


def _optimisation(workdir: pathlib.Path) -> RunFiles:
  path = workdir / "report" / "optimize.json"
  shape = {"best": int, "reasons": list, "harm": dict | None}
  shape |= {"kept": int, "proven": bool, "evaluation": _EVALUATION}
  choice = _fitting(files.read_json(path, ReportError), shape, path)
  path = workdir / "candidates.json"
  candidates = files.parse(files.read(path, ReportError), path, ReportError)
  names = {}
  for index, name in (
    (choice["best"], f"candidate {choice['best']}"),
    (0, "seed prompts"),  # the best one may be the seed
  ):
    prompts = prompts_config(candidates[index]["prompts"], str(path))
    names[fingerprint(prompts)] = name
  attempts: dict[str, dict[str, Mapping]] = {ALONE: {}}
  shape = {"prompts": str, "kind": _TEXT, "seconds": dict}
  shape |= {"teachings": [_TEACHING]}
  path = workdir / "episodes" / "test.jsonl"
  for line in _lines(path, _EPISODE | shape):
    if line["prompts"] in names:
      alone, taught = attempts_of(line, names[line["prompts"]])
      attempts[ALONE].setdefault(line["id"], alone)
      attempts.setdefault(taught["arm"], {})[line["id"]] = taught
  order = [arm["name"] for arm in choice["evaluation"]["arms"]]
  return RunFiles(
    workdir,
    files.read_json(workdir / "config.json", ReportError),
    {"optimize": choice["evaluation"]},
    [x for name in order for x in attempts.get(name, {}).values()],
    [],
    decision(choice),
  )


def decision(choice: Mapping) -> str:
  """Which prompts optimize.json keeps, why, and what speaks against their use.

  It is made of numbers that older versions wrote as well.
  """
  if choice["reasons"]:
    text = f"The seed prompts are kept: {'; '.join(choice['reasons'])}."
  else:
    proof = "shown", "excludes"
    if not choice["proven"]:
      proof = "not shown", "includes"
    text = (
      f"The prompts of candidate {choice['kept']} are kept. Their gain over the"
      f" seed is {proof[0]} on the test split (the 95% interval {proof[1]} 0)."
    )
  if choice["harm"] is not None:
    harm = tables.points(statistics.Interval(**choice["harm"]))
    text += (
      " Do not use the prompts that are kept: under them the student is worse"
      f" than alone, by {harm} points on the test split."
    )
  return text


def attempts_of(line: Mapping, arm: str) -> tuple[dict, dict]:
  """(the attempt alone, the one in the arm) of an episode with one teaching."""
  (teaching,), (solution, *_) = line["teachings"], line["baseline"]
  seconds = line["seconds"]
  both = {key: line[key] for key in ("id", "question", "answer", "kind")}
  both |= {"sample": 0, "weight_version": None, "student": None}
  nothing = dict.fromkeys(("probe", "teacher_text", "teaching", "status"))
  alone = {
    **nothing,
    "arm": ALONE,
    "teaching_tokens": 0,
    "leaked": False,
    "solution": solution,
    "seconds": seconds["baseline"],
  }
  taught = {
    "arm": arm,
    "probe": line["probe"],
    "teacher_text": teaching["text"],
    "teaching": teaching["teaching"],
    "status": teaching["status"],
    "teaching_tokens": teaching["tokens"],
    "leaked": teaching["leaked"],
    "solution": teaching["taught"],
    "seconds": sum(v for k, v in seconds.items() if k != "baseline"),
  }
  return both | alone, both | taught


def flips(run: RunFiles, arm: str) -> dict[str, str]:
  """problem id -> how it fares in `arm`, of the problems judged in both.

  Raises:
    ReportError: the run has no such arm; the valid ones are listed.
  """
  title = run.alone.get(arm)
  alone = [line for line in run.attempts if line["arm"] == title]
  return flips_of(statistics.rates(alone), statistics.rates(run.arm(arm)[1]))


def flips_of(
  before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, str]:
  """problem id -> of FLIPS, for the problems of both.

  A rate of several samples counts as right above one half.
  """

  def flip(was: float, is_now: float) -> str:
    if is_now > 0.5:
      return "still right" if was > 0.5 else "fixed"
    return "broken" if was > 0.5 else "still wrong"

  return {
    key: flip(before[key], rate) for key, rate in after.items() if key in before
  }
