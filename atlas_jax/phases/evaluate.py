"""Evaluation on held-out problems: alone, constant teachings, teachers.

All arms answer the same problems. Arms that do not depend on the run's teacher
(alone, the constants, teachers of other runs) are sampled once a run. Every
evaluation's table holds the teachers of the evaluations before it, so one run
shows what each of its phases brought.

  report/INDEX_evaluate.json   arms of this evaluation (reports/tables.py)
  report/INDEX_evaluate.md     the tables, one a student
  report/alone_versus_taught.png, report/learning_curve.png
  report/index.html            all of it in one page, and every episode
  report/arms/ARM.json         outcomes an arm, for the pairing
  episodes/INDEX_evaluate.jsonl   every attempt
"""

import dataclasses
import json
import logging
import pathlib
import sys
from collections.abc import Sequence

from atlas_jax import directory, files, metrics, multihost
from atlas_jax.config import Phase
from atlas_jax.data.problems import Problem
from atlas_jax.phases import arms
from atlas_jax.phases.arms import Arm
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.guests import Guest, Guests
from atlas_jax.phases.servers import Servers
from atlas_jax.phases.teacher import Teacher
from atlas_jax.reports import plots, reading, tables
from atlas_jax.teaching import statistics, transcripts
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.statistics import Outcome

log = logging.getLogger(__name__)


def teacher_name(before: Sequence[Phase]) -> str:
  """'teacher after sft': the last phase before this one that trained."""
  trained = [phase for phase in before if phase in ("sft", "grpo")]
  if not trained:
    return "teacher"
  times = trained.count(trained[-1])
  return f"teacher after {trained[-1]}{f' {times}' if times > 1 else ''}"


def arms_of(
  entry: PhaseEntry, teacher: Teacher, prompts: Prompts, guests: Guests
) -> list[Arm]:
  """The arms of an evaluation and of those before it, in the table's order.

  The run's student first: alone, under constant teachings, taught by guests,
  and by the run's teacher, the newest last. Then each student that the teacher
  never met, alone and taught.
  """
  alone = Arm("alone", reading.ALONE, prompts)
  constants = [
    Arm(f"constant_{i}", f'constant "{text}"', prompts, constant=text)
    for i, text in enumerate(entry.config.evaluate.constant_teachings)
  ]
  taught = [
    Arm(f"teacher_{i}", f"teacher of {name}", words, guest)
    for i, (name, guest, words) in enumerate(guests.teachers)
  ]
  for at in entry.entries("evaluate"):
    title = teacher_name(entry.config.phases[: at.index])
    own = Arm(at.name, title, prompts, teacher, evaluation=at.name)
    for i, (name, words) in enumerate(guests.prompts):
      told = {"key": f"{at.name}_prompts_{i}", "title": f"{title}, {name}"}
      taught.append(dataclasses.replace(own, prompts=words, **told))
    taught.append(own)
  of_guests = [
    arm.of(i, student)
    for i, student in enumerate(guests.students)
    for arm in (alone, *taught)
  ]
  return [alone, *constants, *taught, *of_guests]


def _path(entry: PhaseEntry, arm: Arm) -> pathlib.Path:
  return entry.workdir / "report" / "arms" / f"{arm.key}.json"


def _source(arm: Arm) -> dict:
  """What an arm is sampled with that the run's config does not hold."""
  last = arm.teacher.trained if isinstance(arm.teacher, Guest) else None
  return {
    "prompts": arm.prompts.fingerprint,
    "checkpoint": last and [last[0].name, last[1]],
  }


def _check_source(path: pathlib.Path, arm: Arm) -> None:
  """Raises RunError where an arm that is there was sampled with another."""
  # An older version kept none.
  before = files.read_json(path).get("source") or _source(arm)
  for what, now in _source(arm).items():
    if before[what] != now:
      raise directory.RunError(
        f"{path}: the {what} of {arm.title} changed since it was sampled, from"
        f" {before[what]} to {now}; bring back what it was, or evaluate in"
        " another --workdir"
      )


def outcomes(entry: PhaseEntry, arm: Arm) -> list[Outcome]:
  """What counts of an arm that was sampled."""
  saved = files.read_json(_path(entry, arm))
  return [Outcome(**o) for o in saved["outcomes"]]


def sample(
  entry: PhaseEntry, arm: Arm, problems: Sequence[Problem], **given
) -> None:
  """Samples an arm and keeps it, unless it is there. A collective."""
  path, config = _path(entry, arm), entry.config
  if multihost.broadcast_json(path.exists()):
    multihost.call_on_lead(lambda: _check_source(path, arm))
    return
  samples = config.evaluate.samples
  found = arms.sample(arm, problems, config=config, samples=samples, **given)

  def keep():
    attempts, counted, verdicts = found
    # A run that was killed here before left the arm's lines.
    others = metrics.read_jsonl(entry.episodes)
    lines = [line for line in others if line["arm"] != arm.name]
    student = {"student": arm.student_name}
    lines += [
      student | transcripts.attempt_json(arm.name, a, v, o.leaked)
      for a, v, o in zip(attempts, verdicts, counted, strict=True)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    directory.write_whole(entry.episodes, text)
    saved = [dataclasses.asdict(o) for o in counted]
    told = {"title": arm.name, "source": _source(arm), "outcomes": saved}
    directory.write_json(path, told)

  multihost.call_on_lead(keep)


def evaluate(
  entry: PhaseEntry,
  *,
  teacher: Teacher,
  servers: Servers,
  prompts: Prompts,
  guests: Guests,
  problems: list[Problem],
) -> None:
  """Samples every arm, writes the report, prints the table."""
  report = entry.workdir / "report" / f"{entry.name}.json"
  if multihost.broadcast_json(report.exists()):
    log.info("%s is there already", report)
    multihost.call_on_lead(lambda: _write_page(report))
    return
  servers.publish()
  shown = arms_of(entry, teacher, prompts, guests)
  with AnswerChecker(data=entry.config.data) as checker:
    for arm in shown:
      if arm.evaluation in (None, entry.name):
        sample(entry, arm, problems, servers=servers, checker=checker)
      if arm.teacher not in (None, teacher):
        arm.teacher.forget()
  multihost.call_on_lead(lambda: _report(entry, shown))


def _write_page(evaluation: pathlib.Path) -> None:
  """Writes the page, unless it is newer than the evaluation."""
  path = evaluation.with_name("index.html")
  if path.exists() and path.stat().st_mtime >= evaluation.stat().st_mtime:
    return
  from atlas_jax.reports import page  # and jinja2: the lead alone needs it

  page.write(reading.read(evaluation.parent.parent), path)


def _report(entry: PhaseEntry, shown: Sequence[Arm]) -> None:
  c, found = entry.config.evaluate, {}
  of_student: dict[str | None, list[dict]] = {}
  constants, kinds = [], {}
  for arm in shown:
    student = arm.student_name
    found[arm.name] = mine = outcomes(entry, arm)
    alone = found[reading.titled(reading.ALONE, student)]
    result = statistics.arm_result(
      *(arm.title, mine),
      alone=None if mine is alone else alone,
      resamples=c.bootstrap_resamples,
      seed=entry.config.seed,
    )
    if arm.constant is not None:
      constants.append(dataclasses.asdict(result))
      continue
    of_student.setdefault(student, []).append(dataclasses.asdict(result))
    if arm.teacher is not None and student is None:
      kinds[arm.title] = statistics.by_kind(mine, alone)
  own = of_student.pop(None)
  if constants:
    best = max(constants, key=lambda r: r["accuracy"])
    own.insert(1, best | {"name": f"best {best['name']}"})
  evaluation = {
    "problems": len({o.problem_id for o in found[reading.ALONE]}),
    "split": c.split,
    "judge": entry.config.data.verifier,
    "arms": own,
    "constants": constants,
    "kinds": kinds,
    "students": [{"name": n, "arms": of} for n, of in of_student.items()],
  }
  folder = entry.workdir / "report"
  directory.write_whole(
    folder / f"{entry.name}.md", tables.markdown(evaluation)
  )
  plots.alone_versus_taught(evaluation, folder / "alone_versus_taught.png")
  lines = metrics.read_jsonl(entry.workdir / "metrics.jsonl")
  trained = [x["phase"] for x in lines if x["phase"] in entry.names("grpo")]
  if trained:
    plots.learning_curve(
      lines, folder / "learning_curve.png", phase=trained[-1]
    )
  directory.write_json(folder / f"{entry.name}.json", evaluation)
  _write_page(folder / f"{entry.name}.json")
  tables.show(evaluation, sys.stdout)
  print(f"report: {folder}", flush=True)
