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
from collections.abc import Iterator, Sequence

from atlas_jax import directory, files, metrics, multihost
from atlas_jax.config import EvaluateConfig, Phase
from atlas_jax.data.problems import Problem
from atlas_jax.phases import arms
from atlas_jax.phases.arms import Arm
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.guests import Guests
from atlas_jax.phases.servers import Servers
from atlas_jax.phases.teacher import Teacher
from atlas_jax.reports import page, plots, reading, tables
from atlas_jax.teaching import statistics, transcripts
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.statistics import ArmResult, Outcome

log = logging.getLogger(__name__)


def teacher_name(before: Sequence[Phase]) -> str:
  """'teacher after sft': the last phase before this one that trained."""
  trained = [phase for phase in before if phase in ("sft", "grpo")]
  if not trained:
    return "teacher"
  times = trained.count(trained[-1])
  return f"teacher after {trained[-1]}{f' {times}' if times > 1 else ''}"


class Arms:
  """The arms of an evaluation, in the order of its table.

  Attributes:
    alone, constants, of_others: the same in every evaluation of the run.
    own: by the name of the evaluation, up to this one: its teacher's arms,
      the one with the run's prompts last.
    guests: who else is there.
  """

  def __init__(
    self,
    entry: PhaseEntry,
    teacher: Teacher,
    prompts: Prompts,
    guests: Guests,
  ):
    self.guests = guests
    self.alone = Arm("alone", reading.ALONE, prompts)
    self.constants = [
      Arm(f"constant_{i}", f'constant "{text}"', prompts, constant=text)
      for i, text in enumerate(entry.config.evaluate.constant_teachings)
    ]
    self.of_others = [
      Arm(f"teacher_{i}", f"teacher of {name}", words, other)
      for i, (name, other, words) in enumerate(guests.teachers)
    ]
    self.own = {}
    for at in entry.entries("evaluate"):
      title = teacher_name(entry.config.phases[: at.index])
      evolved = [
        Arm(f"{at.name}_prompts_{i}", f"{title}, {name}", words, teacher)
        for i, (name, words) in enumerate(guests.prompts)
      ]
      last = Arm(at.name, title, prompts, teacher)
      self.own[at.name] = [*evolved, last]

  def of_students(self, own: Sequence[Arm]) -> Iterator[tuple[str, list[Arm]]]:
    """(name, arms) of each student that the run's teacher never met."""
    for i, student in enumerate(self.guests.students):
      shown = [self.alone, *self.of_others, *own]
      yield student.name, [arm.of(i, student) for arm in shown]


class Kept:
  """Outcomes of the arms of a run, in report/arms."""

  def __init__(self, entry: PhaseEntry):
    self._directory = entry.workdir / "report" / "arms"
    self._entry = entry

  def _path(self, arm: Arm) -> pathlib.Path:
    return self._directory / f"{arm.key}.json"

  def sample(self, arm: Arm, problems: Sequence[Problem], **given) -> None:
    """Samples an arm, unless it is there already. A collective."""
    if multihost.broadcast_json(self._path(arm).exists()):
      return
    config = self._entry.config
    samples = config.evaluate.samples
    found = arms.sample(arm, problems, config=config, samples=samples, **given)
    multihost.call_on_lead(lambda: self._keep(arm, found))

  def _keep(self, arm: Arm, found: arms.Sampled) -> None:
    # A run that was killed here before left the arm's lines.
    others = metrics.read_jsonl(self._entry.episodes)
    lines = [line for line in others if line["arm"] != arm.title]
    student = arm.student and arm.student.name
    lines += [
      transcripts.attempt_json(arm.title, student, a, v, o.leaked)
      for a, v, o in zip(
        found.attempts, found.verdicts, found.outcomes, strict=True
      )
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    directory.write_whole(self._entry.episodes, text)
    directory.write_json(
      self._path(arm),
      {
        "title": arm.title,
        "wall_seconds": found.seconds,
        "outcomes": [dataclasses.asdict(o) for o in found.outcomes],
      },
    )

  def read(self, arm: Arm) -> list[Outcome]:
    saved = files.read_json(self._path(arm))
    return [Outcome(**o) for o in saved["outcomes"]]


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
  every, kept = Arms(entry, teacher, prompts, guests), Kept(entry)
  own = every.own[entry.name]
  wanted = [every.alone, *every.constants, *every.of_others, *own]
  for _, of_student in every.of_students(own):
    wanted += of_student
  with AnswerChecker(data=entry.config.data) as checker:
    for arm in wanted:
      kept.sample(arm, problems, servers=servers, checker=checker)
      for _, other, _ in guests.teachers:
        other.forget()
  multihost.call_on_lead(lambda: _report(entry, every, kept))


def _write_page(evaluation: pathlib.Path) -> None:
  """Writes the page, unless it is newer than the evaluation."""
  path = evaluation.with_name("index.html")
  if path.exists() and path.stat().st_mtime >= evaluation.stat().st_mtime:
    return
  page.write(reading.read(evaluation.parent.parent), path)


def _results(
  c: EvaluateConfig, seed: int, kept: Kept, of_student: Sequence[Arm]
) -> list[ArmResult]:
  """The numbers of a student's arms, the one that is alone first."""
  alone = kept.read(of_student[0])
  return [
    statistics.arm_result(
      arm.title,
      kept.read(arm),
      alone=alone if i else None,
      resamples=c.bootstrap_resamples,
      seed=seed,
    )
    for i, arm in enumerate(of_student)
  ]


def _report(entry: PhaseEntry, every: Arms, kept: Kept) -> None:
  c, seed = entry.config.evaluate, entry.config.seed
  own = [arm for of_evaluation in every.own.values() for arm in of_evaluation]
  taught = [*every.of_others, *own]
  shown = [every.alone, *every.constants, *taught]
  alone, *others = _results(c, seed, kept, shown)
  of_constants = others[: len(every.constants)]
  best = []
  if of_constants:
    found = max(of_constants, key=lambda r: r.accuracy)
    best = [dataclasses.replace(found, name=f"best {found.name}")]
  results = [alone, *best, *others[len(every.constants) :]]
  before = kept.read(every.alone)
  evaluation = {
    "problems": len({o.problem_id for o in before}),
    "split": c.split,
    "judge": entry.config.data.verifier,
    "arms": [dataclasses.asdict(r) for r in results],
    "constants": [dataclasses.asdict(r) for r in of_constants],
    "kinds": {
      arm.title: statistics.by_kind(kept.read(arm), before) for arm in taught
    },
    "students": [
      {
        "name": name,
        "arms": [
          dataclasses.asdict(r) for r in _results(c, seed, kept, of_student)
        ],
      }
      for name, of_student in every.of_students(own)
    ],
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
