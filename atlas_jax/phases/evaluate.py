"""Evaluation on held-out problems: alone, constant teachings, the teacher.

All arms answer the same problems. Arms that do not depend on the teacher
(alone and the constants) are sampled once a run. Every evaluation's table
holds the teachers of the evaluations before it, so one run shows what each of
its phases brought.

  report/INDEX_evaluate.json   arms of this evaluation (reports/tables.py)
  report/INDEX_evaluate.md     the table
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
import time
from collections.abc import Sequence

from atlas_jax import directory, files, metrics, multihost, progress
from atlas_jax.config import Phase, RunConfig
from atlas_jax.confined import NoAnswer
from atlas_jax.data import splits
from atlas_jax.data.problems import Problem
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.servers import Servers
from atlas_jax.reports import page, plots, reading, tables
from atlas_jax.teaching import statistics, transcripts
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.arms import run_arm
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.statistics import Outcome

log = logging.getLogger(__name__)


def chosen_problems(config: RunConfig, held: splits.Splits) -> list[Problem]:
  """config.evaluate.problems of the split.

  Raises:
    DataError: it is empty.
  """
  c = config.evaluate
  return splits.sample(
    held, c.split, c.problems, source=config.data.source, seed=config.seed
  )


def teacher_name(before: Sequence[Phase]) -> str:
  """'teacher after sft': the last phase before this one that trained."""
  trained = [phase for phase in before if phase in ("sft", "grpo")]
  if not trained:
    return "teacher"
  times = trained.count(trained[-1])
  return f"teacher after {trained[-1]}{f' {times}' if times > 1 else ''}"


class Arms:
  """Outcomes of every arm of the run, kept in report/arms."""

  def __init__(
    self,
    entry: PhaseEntry,
    *,
    servers: Servers,
    prompts: Prompts,
    problems: list[Problem],
    checker: AnswerChecker,
  ):
    self._config, self._servers, self._prompts = entry.config, servers, prompts
    self._problems, self._checker = problems, checker
    self._directory = entry.workdir / "report" / "arms"
    self._episodes = entry.episodes

  def _path(self, key: str) -> pathlib.Path:
    return self._directory / f"{key}.json"

  def sample(
    self, key: str, title: str, *, constant=None, teacher: bool = False
  ) -> None:
    """Samples and judges an arm unless it is there already. A collective."""
    if multihost.broadcast_json(self._path(key).exists()):
      return
    c, servers = self._config, self._servers
    episode = dataclasses.replace(
      c.episode,
      teacher_temperature=c.evaluate.teacher_temperature,
      student_temperature=c.evaluate.student_temperature,
    )

    def ask():
      teacher_role, student = servers.roles()
      with progress.shown(progress.timed(title)):
        return servers.ask(
          run_arm(
            self._problems,
            student=student,
            prompts=self._prompts,
            config=episode,
            samples=c.evaluate.samples,
            seed=c.seed,
            teacher=teacher_role if teacher else None,
            constant=constant,
          )
        )

    begin = time.perf_counter()
    attempts = servers.call(ask)
    seconds = time.perf_counter() - begin

    def keep():
      outcomes, verdicts = statistics.judge(attempts, self._checker)
      if all(verdict.score is None for verdict in verdicts):
        raise NoAnswer(
          f"{title}: no verdict on any of {len(verdicts)} responses; the last"
          f" failure: {self._checker.failure}"
        )
      # A run that was killed here before left the arm's lines.
      others = metrics.read_jsonl(self._episodes)
      lines = [line for line in others if line["arm"] != title]
      lines += [
        transcripts.attempt_json(title, a, v, o.leaked)
        for a, v, o in zip(attempts, verdicts, outcomes, strict=True)
      ]
      text = "".join(json.dumps(line) + "\n" for line in lines)
      directory.write_whole(self._episodes, text)
      directory.write_json(
        self._path(key),
        {
          "title": title,
          "wall_seconds": seconds,
          "outcomes": [dataclasses.asdict(o) for o in outcomes],
        },
      )
      log.info("%s: %d attempts in %.1f s", title, len(attempts), seconds)

    multihost.call_on_lead(keep)

  def read(self, key: str) -> tuple[str, list[Outcome]]:
    saved = files.read_json(self._path(key))
    return saved["title"], [Outcome(**o) for o in saved["outcomes"]]


def evaluate(
  entry: PhaseEntry,
  *,
  servers: Servers,
  prompts: Prompts,
  problems: list[Problem],
) -> None:
  """Samples every arm, writes the report, prints the table."""
  config, c = entry.config, entry.config.evaluate
  report = entry.workdir / "report" / f"{entry.name}.json"
  if multihost.broadcast_json(report.exists()):
    log.info("%s is there already", report)
    multihost.call_on_lead(lambda: _write_page(report))
    return
  servers.publish()
  constants = [
    (f"constant_{i}", f'constant "{text}"', text)
    for i, text in enumerate(c.constant_teachings)
  ]
  with AnswerChecker(data=config.data) as checker:
    arms = Arms(
      entry,
      servers=servers,
      prompts=prompts,
      problems=problems,
      checker=checker,
    )
    arms.sample("alone", "student alone")
    for key, title, text in constants:
      arms.sample(key, title, constant=text)
    before = config.phases[: entry.index]
    arms.sample(entry.name, teacher_name(before), teacher=True)
  keys = [k for k, _, _ in constants]
  multihost.call_on_lead(lambda: _report(entry, arms, keys))


def _write_page(evaluation: pathlib.Path) -> None:
  """Writes the page, unless it is newer than the evaluation."""
  path = evaluation.with_name("index.html")
  if path.exists() and path.stat().st_mtime >= evaluation.stat().st_mtime:
    return
  page.write(reading.read(evaluation.parent.parent), path)


def _report(entry: PhaseEntry, arms: Arms, constants: list[str]) -> None:
  c = entry.config.evaluate
  _, alone = arms.read("alone")

  def result(key):
    title, outcomes = arms.read(key)
    return statistics.arm_result(
      title,
      outcomes,
      alone=None if key == "alone" else alone,
      resamples=c.bootstrap_resamples,
      seed=entry.config.seed,
    )

  of_constants = [result(key) for key in constants]
  shown = [result("alone")]
  if of_constants:
    best = max(of_constants, key=lambda r: r.accuracy)
    shown.append(dataclasses.replace(best, name=f"best {best.name}"))
  teachers = entry.names("evaluate")
  shown += [result(key) for key in teachers]
  evaluation = {
    "problems": len({o.problem_id for o in alone}),
    "split": c.split,
    "arms": [dataclasses.asdict(r) for r in shown],
    "constants": [dataclasses.asdict(r) for r in of_constants],
    "kinds": {
      title: statistics.by_kind(outcomes, alone)
      for title, outcomes in map(arms.read, teachers)
    },
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
