"""Evaluation on held-out problems: alone, constant teachings, teachers.

All arms answer the same problems. Arms that do not depend on the run's teacher
(alone, the constants, teachers of other runs) are sampled once a run. Every
evaluation's table holds the teachers of the evaluations before it, so one run
shows what each of its phases brought.

  report/INDEX_evaluate.json   arms of this evaluation (reports/tables.py)
  report/INDEX_evaluate.md     the tables, one a student
  report/learning_curve.png
  report/index.html            all of it in one page, and every episode
  episodes/INDEX_evaluate.jsonl   every attempt, an arm as a whole
"""

import dataclasses
import json
import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence

from atlas_jax import directory, metrics, multihost
from atlas_jax.data.problems import Problem
from atlas_jax.phases import arms
from atlas_jax.phases.arms import Arm
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.guests import Guest, Guests
from atlas_jax.phases.servers import Servers
from atlas_jax.phases.teacher import Teacher
from atlas_jax.reports import curves, reading, tables
from atlas_jax.teaching import statistics
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.prompts import Prompts

log = logging.getLogger(__name__)


def _teacher_title(entry: PhaseEntry) -> str:
  """'teacher after sft': the last phase before this one that trained."""
  trained = [before.kind for before in entry.entries("sft", "grpo")]
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
  alone = Arm(reading.ALONE, prompts)
  constants = [
    Arm(f'constant "{text}"', prompts, constant=text)
    for text in entry.config.evaluate.constant_teachings
  ]
  taught = [
    Arm(f"teacher of {name}", words, guest)
    for name, guest, words in guests.teachers
  ]
  for at in entry.entries("evaluate"):
    title = _teacher_title(at)
    taught += [
      Arm(f"{title}, {name}", words, teacher, evaluation=at.name)
      for name, words in guests.prompts
    ]
    taught.append(Arm(title, prompts, teacher, evaluation=at.name))
  of_guests = [
    dataclasses.replace(arm, student=student)
    for student in guests.students
    for arm in (alone, *taught)
  ]
  # Where nothing was trained between two evaluations their teacher is one.
  found = (alone, *constants, *taught, *of_guests)
  return list({arm.name: arm for arm in found}.values())


def _source(arm: Arm) -> dict:
  """What an arm is sampled with, as it stands in the lines of its attempts."""
  last = arm.teacher.trained if isinstance(arm.teacher, Guest) else None
  return {
    "student": arm.student_name,
    "prompts": arm.prompts.fingerprint,
    "checkpoint": last and [last[0].name, last[1]],
  }


def sampled(entry: PhaseEntry) -> dict[str, list[Mapping]]:
  """Name of an arm -> its attempts, of this evaluation and those before it."""
  evaluations = entry.entries("evaluate")
  return reading.by_arm(metrics.lines(at.episodes) for at in evaluations)


def sampled_before(entry: PhaseEntry, shown: Sequence[Arm]) -> dict:
  """sampled(); RunError if an evaluation before this one lacks its arm."""
  found = sampled(entry)
  for arm in shown:
    if arm.evaluation in (None, entry.name) or arm.name in found:
      continue
    path = entry.episodes.with_name(f"{arm.evaluation}.jsonl")
    raise directory.RunError(
      f"{path} has no attempts of {arm.title!r}, whose weights are gone;"
      " bring the file back, or evaluate in another --workdir"
    )
  return found


def _is_there(
  entry: PhaseEntry, arm: Arm, before: Sequence[Mapping], attempts: int
) -> bool:
  """Whether an arm was sampled; RunError if that was with another source.

  One that has lost some of its attempts was not.
  """
  if len(before) < attempts:
    return False
  for what, now in _source(arm).items():
    was = before[0].get(what, now)  # an older version kept none
    if was != now:
      raise directory.RunError(
        f"{entry.workdir}: the {what} of {arm.title} changed since it was"
        f" sampled, from {was} to {now}; bring back what it was, or evaluate in"
        " another --workdir"
      )
  return True


def sample(
  entry: PhaseEntry,
  arm: Arm,
  problems: Sequence[Problem],
  there: Mapping[str, Sequence[Mapping]],
  **given,
) -> None:
  """Samples an arm and keeps it, unless it is `there`. A collective."""
  config, samples = entry.config, entry.config.evaluate.samples
  before, attempts = there.get(arm.name, ()), len(problems) * samples
  if multihost.call_on_lead(lambda: _is_there(entry, arm, before, attempts)):
    return
  found = arms.sample(arm, problems, config=config, samples=samples, **given)

  def keep():
    others = metrics.lines(entry.episodes)
    lines = [line for line in others if line["arm"] != arm.name]
    lines += [_source(arm) | line for line in found]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    directory.write_whole(entry.episodes, text)

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
  there = multihost.on_lead(lambda: sampled_before(entry, shown)) or {}
  with AnswerChecker(data=entry.config.data) as checker:
    for arm in shown:
      if arm.evaluation in (None, entry.name):
        sample(entry, arm, problems, there, servers=servers, checker=checker)
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
  c = entry.config.evaluate
  lines = sampled(entry)
  of_student: dict[str | None, list[dict]] = {}
  constants, kinds = [], {}
  for arm in shown:
    student = arm.student_name
    mine = lines[arm.name]
    alone = lines[reading.titled(reading.ALONE, student)]
    result = statistics.arm_result(
      arm.title,
      mine,
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
    "problems": len({x["id"] for x in lines[reading.ALONE]}),
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
  steps = metrics.of_run(entry.workdir)
  names = [at.name for at in entry.entries("grpo")]
  trained = [x["phase"] for x in steps if x["phase"] in names]
  if trained:
    curves.learning_curve(steps, folder / "learning_curve.png", trained[-1])
  directory.write_json(folder / f"{entry.name}.json", evaluation)
  _write_page(folder / f"{entry.name}.json")
  tables.show(evaluation, sys.stdout)
  print(f"report: {folder}", flush=True)
