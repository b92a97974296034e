"""The GRPO phase without servers, without a model: episodes are made up."""

import asyncio
import contextlib
import json
import types

from atlas_jax import multihost, stopping
from atlas_jax.config import EpisodeConfig, GrpoConfig, RunConfig
from atlas_jax.data.problems import make_problem
from atlas_jax.phases import grpo
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.serving.client import Completion, ServerDown
from atlas_jax.teaching.protocol import Teaching, TeachingEpisode
from atlas_jax.teaching.speakers import Said

PROBLEMS = [make_problem(f"{i}+0", str(i)) for i in range(20)]
# Their teachings are all alike.
FLAT = {p.id for p in PROBLEMS[:8]}


def solution(text):
  return Said(f"<solution>{text}</solution>", 3, "stop")


class World:
  """What grpo.train is given, in one object, and what it did.

  Attributes:
    calls: (step, refill, ids of the problems) of each run_episodes.
    kept: step -> the rollouts that were packed.
    numbers: step -> what was reported.
    log: ("logged" | "saved", step), in order.
    saves: step -> the state beside a checkpoint.
    fail: so many run_episodes from now on find a server that is gone.
    at: (place, step) -> called there; places are sampling, recording,
      training, publishing, validating.
  """

  def __init__(self, workdir, *, done=0, saved=None, problems=PROBLEMS, **grpo):
    options = {"problems_per_step": 3, "group_size": 2, "steps": 6}
    options |= {"row_length": 64, "checkpoint_every": 100, **grpo}
    config = RunConfig(
      phases=("sft", "grpo"),
      grpo=GrpoConfig(**options),
      episode=EpisodeConfig(max_teaching_tokens=8),
    )
    self.entry = PhaseEntry(config, workdir, 1)
    self.problems, self.done, self.saved = problems, done, saved
    self.version, self.fail, self.at = done, 0, {}
    self.calls, self.log = [], []
    self.kept, self.numbers, self.saves = {}, {}, {}
    self.state = types.SimpleNamespace(model="weights")
    self.reference, self.mesh = None, None
    self._stopped = self.best = None

  @property
  def step(self):
    return self.version + 1

  def _reach(self, place):
    self.at.get((place, self.step), lambda: None)()

  # The servers.

  def publish(self, hold=False):
    multihost.call_on_lead(lambda: self._reach("publishing"), hold)
    return {"logprob_gap": 0.0}

  def call(self, work):
    self._reach("sampling")
    while True:
      try:
        return work()
      except ServerDown:
        continue

  def roles(self):
    return self.version, None

  def ask(self, work):
    return asyncio.run(work)

  # The teacher.

  def advance(self, model, updates):
    self.version = self.done if updates == self.done else self.version + updates

  # The state that is trained.

  def close(self):
    pass

  @contextlib.contextmanager
  def reporting(self):
    def report(step, numbers):
      self.numbers[step] = numbers
      self.log.append(("logged", step))

    yield report

  def check_update(self, step, numbers, packed):
    pass

  def keep_best(self, step, accuracy):
    self.log.append(("best", step))

  def is_due(self, step):
    self._stopped = multihost.stop_asked()
    every = self.entry.options.checkpoint_every
    return step % every == 0 or self._stopped is not None

  def save(self, step, beside):
    self.saves[step] = json.loads(json.dumps(beside()))
    self.log.append(("saved", step))
    if self._stopped:
      raise self._stopped

  # The episodes.

  async def run_episodes(self, problems, *, teacher, step, refill, **_):
    self.calls.append((step, refill, [p.id for p in problems]))
    if self.fail:
      self.fail -= 1
      raise ServerDown("gone")
    return [self.episode(p, teacher) for p in problems]

  def episode(self, problem, version):
    answers = [problem.answer, problem.answer if problem.id in FLAT else "no"]
    sample = Completion("t", (5, 6), (-0.5, -0.25), "stop", version)
    return TeachingEpisode(
      problem=problem,
      baseline=(solution("none"),),
      probe="so",
      teachings=tuple(
        Teaching(
          Said("t", 2, "stop", prompt_ids=(1, 2), sample=sample),
          "t",
          "ok",
          1,
          solution(answer),
        )
        for answer in answers
      ),
      seconds={},
    )

  def _look(self):
    self._reach("validating")
    return {"validation_accuracy_taught": self.version % 3}

  # The run.

  def pack(self, kept, cfg, at_once):
    self._reach("training")
    self.kept[self.step] = kept
    return None, {}

  def train(self, monkeypatch, checker):
    """grpo.train on all of this."""

    def record(function, hold=False, lead=multihost.call_on_lead):
      if not self.log or self.log[-1][1] < self.step:
        self._reach("recording")
      return lead(function, hold)

    with monkeypatch.context() as patch:
      closing = contextlib.nullcontext(checker)
      patch.setattr(grpo, "AnswerChecker", lambda **_: closing)
      patch.setattr(grpo, "TrainingPhase", lambda *_, **__: self)
      steps = None, lambda state, *_: (state, {})
      patch.setattr(grpo, "make_grpo_step", lambda *_: steps)
      patch.setattr(grpo, "validation", lambda *_, **__: self._look)
      patch.setattr(grpo, "run_episodes", self.run_episodes)
      patch.setattr(grpo, "pack_rollouts", self.pack)
      patch.setattr(grpo, "rows_at_once", lambda *_: 1)
      patch.setattr(grpo.multihost, "call_on_lead", record)
      with stopping.listening():
        grpo.train(
          self.entry,
          teacher=self,
          servers=self,
          prompts=None,
          problems=self.problems,
        )
    return self

  def written(self):
    """Ids of the episodes in the run's file."""
    lines = self.entry.episodes.read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]
