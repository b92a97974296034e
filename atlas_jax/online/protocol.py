"""The teaching protocol for one question, over texts.

    question -> student: unaided solution (baseline)      \\ at the same time
             -> student: its approach in few words (probe) /
    question + approach -> teacher: a teaching
    question + teaching -> student: the guided solution

Roles, templates and the reading of teachings are those of training. With an
agent that exists already there is no probe: its unaided answer is the
approach, cut at `max_approach_chars`.

A stage that fails ends the attempt with its status; no error is handed on as
an approach or a teaching. A teaching that is not well-formed is no failure:
the student gets an empty one, as in training (prompts.extract_teaching).
"""

import dataclasses
from dataclasses import dataclass

from atlas_jax.config import EpisodeConfig, NonNegativeFloat, PositiveInt
from atlas_jax.online.replies import Agent, ChatModel, ChatRequest, Reply
from atlas_jax.teaching.prompts import (
  Prompts,
  extract_teaching,
  strip_thinking,
)
from atlas_jax.teaching.requests import request_seed

_CUT = " [...]"


@dataclass(frozen=True)
class ProbeConfig:
  """How the probe is sampled; a thinking model needs far more tokens."""

  max_tokens: PositiveInt = EpisodeConfig.max_probe_tokens
  temperature: NonNegativeFloat = EpisodeConfig.probe_temperature


@dataclass(frozen=True)
class TeachConfig:
  """How a teaching is sampled, and how much of an approach is shown."""

  max_tokens: PositiveInt = EpisodeConfig.max_teaching_tokens
  temperature: NonNegativeFloat = EpisodeConfig.teacher_temperature
  max_approach_chars: PositiveInt = 4000  # what is cut off is shown as [...]


@dataclass(frozen=True)
class SolutionConfig:
  """How solutions are sampled, unaided and guided."""

  max_tokens: PositiveInt = EpisodeConfig.max_solution_tokens
  temperature: NonNegativeFloat = EpisodeConfig.student_temperature


@dataclass(frozen=True)
class Question:
  """One question and what makes the seeds of its calls.

  key names the problem. seed None leaves sampling to the servers; another
  replicate is another sample.
  """

  text: str
  key: str
  seed: int | None = None
  replicate: int = 0

  def seed_of(self, role: str) -> int | None:
    if self.seed is None:
      return None
    return request_seed(self.seed, self.key, role, self.replicate)


@dataclass(frozen=True)
class Taught:
  """One taught attempt, as far as it came.

  approach is what the teacher got to read, None where there was none.
  teaching is what the student got to read, None where the teacher's words
  held none (teaching_status says why; the student then got an empty one).
  """

  approach_reply: Reply
  approach: str | None = None
  teaching_reply: Reply | None = None
  teaching: str | None = None
  teaching_status: str | None = None  # of teaching.prompts.STATUSES
  guided: Reply | None = None

  def with_guided(self, guided: Reply) -> "Taught":
    """The attempt with its last stage."""
    return dataclasses.replace(self, guided=guided)

  @property
  def stage(self) -> str:
    """Where it ended: approach, teaching or guided."""
    if self.guided is not None:
      return "guided"
    return "approach" if self.teaching_reply is None else "teaching"

  @property
  def status(self) -> str:
    """The status of the last reply; 'no_approach' for one without."""
    last = self.guided or self.teaching_reply or self.approach_reply
    if self.approach is None and has_text(last):
      return "no_approach"
    return last.status


class ModelAgent:
  """A chat model as the student: the prompt is its one user message."""

  def __init__(
    self, model: ChatModel, *, probe: ProbeConfig, solution: SolutionConfig
  ):
    self.name = model.name
    self._model = model
    self._probe = probe
    self._solution = solution

  async def ask(
    self, prompt: str, *, role: str, seed: int | None, replicate: int
  ) -> Reply:
    """See Agent.ask; the role student_diagnostic is sampled as a probe."""
    probing = role == "student_diagnostic"
    how = self._probe if probing else self._solution
    return await self._model.chat(
      ChatRequest(
        role=role,
        messages=({"role": "user", "content": prompt},),
        max_tokens=how.max_tokens,
        temperature=how.temperature,
        seed=seed,
        replicate=replicate,
      )
    )

  async def aclose(self) -> None:
    await self._model.aclose()


def has_text(reply: Reply) -> bool:
  """Whether the reply is words of a model, be they cut at their end."""
  return reply.status in ("ok", "truncated")


def approach_of(reply: Reply, max_chars: int) -> str | None:
  """The approach that a reply states; None where there is none.

  Private thinking is left out; thinking that never ends is no approach. Of a
  long text the first `max_chars` characters are kept, whole words, with [...]
  for the rest.
  """
  text = strip_thinking(reply.text) if has_text(reply) else None
  text = (text or "").strip()
  if len(text) <= max_chars:
    return text or None
  head = text[: max_chars + 1]
  *words, rest = head.rsplit(None, 1) if not head[-1].isspace() else (head, "")
  return (words[0].rstrip() if words else rest[:max_chars]) + _CUT


async def _ask(
  student: Agent,
  prompts: Prompts,
  question: Question,
  role: str,
  fields: dict[str, str],
) -> Reply:
  prompt = prompts.render(role, {"question": question.text, **fields})
  return await student.ask(
    prompt,
    role=role,
    seed=question.seed_of(role),
    replicate=question.replicate,
  )


async def ask_baseline(
  student: Agent, prompts: Prompts, question: Question
) -> Reply:
  """The student's unaided solution.

  Raises:
    BudgetSpent: as every function here that asks.
  """
  return await _ask(student, prompts, question, "student_baseline", {})


async def ask_probe(
  student: Agent, prompts: Prompts, question: Question
) -> Reply:
  """The student's approach in few words."""
  return await _ask(student, prompts, question, "student_diagnostic", {})


async def ask_guided(
  student: Agent, prompts: Prompts, question: Question, teaching: str
) -> Reply:
  """The student's solution under a teaching."""
  fields = {"teaching": teaching}
  return await _ask(student, prompts, question, "student_with_teaching", fields)


async def teach(
  teacher: ChatModel,
  prompts: Prompts,
  config: TeachConfig,
  question: Question,
  approach_reply: Reply,
) -> Taught:
  """The teaching for an approach; guided is left open.

  Args:
    teacher, prompts, config: who teaches, and how.
    question: of the student.
    approach_reply: the student's probe, or an agent's unaided answer.
  """
  approach = approach_of(approach_reply, config.max_approach_chars)
  if approach is None:
    return Taught(approach_reply)
  role = "teacher_adaptive"
  fields = {"question": question.text, "approach": approach}
  reply = await teacher.chat(
    ChatRequest(
      role=role,
      messages=({"role": "user", "content": prompts.render(role, fields)},),
      max_tokens=config.max_tokens,
      temperature=config.temperature,
      seed=question.seed_of(role),
      replicate=question.replicate,
    )
  )
  if not has_text(reply):
    return Taught(approach_reply, approach, reply)
  return Taught(approach_reply, approach, reply, *extract_teaching(reply.text))


async def finish(
  student: Agent, prompts: Prompts, question: Question, so_far: Taught
) -> Taught:
  """The attempt with its guided solution, if it came as far as a teaching."""
  if so_far.teaching_status is None:
    return so_far
  guided = await ask_guided(student, prompts, question, so_far.teaching or "")
  return so_far.with_guided(guided)
