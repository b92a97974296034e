"""The teaching protocol: one walk for training, evaluation and online use.

    question -> student: unaided solutions (baseline)     \\ at the same time
             -> student: its plan in few words (probe)    /
    question + probe -> teacher: a group of teachings, one request
    question + each teaching -> student: one solution each (taught)

Who answers is a Speaker: a server of the run (speakers.py), a chat model or an
agent (online/calls/speakers.py). An agent is not probed: the teacher reads its
unaided answer.

How a probe is read, on every road (`read_probe`):
  1. private thinking that ends is left out;
  2. thinking that does not end is shown without its tag: it is all there is;
  3. where the student said more than `shown_probe_tokens` tokens, the teacher
     sees as many of what is left, by the student's tokenizer, or by _PIECE
     where it is not known;
  4. where nothing is left it reads NO_PROBE, and the walk goes on.
A teaching that is not well-formed ends nothing either: the student gets an
empty one (prompts.extract_teaching).
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace

from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.problems import Problem
from atlas_jax.episode_config import TeachConfig
from atlas_jax.teaching.prompts import NO_PROBE, Prompts, extract_teaching
from atlas_jax.teaching.speakers import (
  STAGES,
  Ask,
  NoAnswer,
  Said,
  Speaker,
  request_seed,
)

_CUT = " [...]"
# Without a tokenizer a token is up to six letters of a word, or one mark.
_PIECE = re.compile(r"\w{1,6}|[^\w\s]")


@dataclass(frozen=True)
class Question:
  """One question and what makes the seeds of its requests.

  key names the problem. seed None leaves sampling to the servers; another
  replicate is another sample.
  """

  text: str
  key: str = ""
  seed: tuple[str | int, ...] | None = None
  replicate: int = 0


@dataclass(frozen=True)
class Teaching:
  """One teaching and the solution that it led to.

  said is exactly what the teacher wrote; text is what the student got to read,
  None when the tags were wrong (status says how; the student then got an empty
  teaching). tokens counts text alone. taught is None before it is asked for.
  """

  said: Said
  text: str | None
  status: str  # of prompts.STATUSES
  tokens: int
  taught: Said | None = None


@dataclass(frozen=True)
class TeachingEpisode:
  """All that was said on one problem; probe is what the teacher read of it."""

  problem: Problem
  baseline: tuple[Said, ...]
  probe: str
  teachings: tuple[Teaching, ...]
  seconds: Mapping[str, float]  # by stage


async def gather_all(work: Sequence[Coroutine]) -> list:
  """The results in order; the first failure ends the rest and is raised."""
  tasks = [asyncio.ensure_future(w) for w in work]
  try:
    return await asyncio.gather(*tasks)
  except BaseException:
    for task in tasks:
      task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    raise


async def wait_all(work: Sequence[Coroutine]) -> list:
  """The results in order; all are waited for, since all are paid.

  Raises:
    NoAnswer: only where nothing else was raised.
  """
  results = await asyncio.gather(*work, return_exceptions=True)
  errors = [r for r in results if isinstance(r, BaseException)]
  for error in sorted(errors, key=lambda e: isinstance(e, NoAnswer)):
    raise error
  return results


def _stated(text: str) -> str:
  """A text without its thinking, unless that never ends."""
  return text.rpartition("</think>")[2].replace("<think>", " ").strip()


def read_probe(said: Said, most: int, tokenizer: ChatTokenizer | None) -> str:
  """What the teacher sees of a probe: at most `most` tokens; see the module."""
  text = _stated(said.text)
  if said.tokens <= most:
    return text or NO_PROBE
  if tokenizer is None:
    pieces = list(_PIECE.finditer(text))[:most]
    text = text[: pieces[-1].end()] if pieces else ""
  elif len(ids := tokenizer.encode(text)) > most:
    # The last token may hold a part of a character.
    text = tokenizer.decode(ids[:most]).rstrip("\ufffd").strip()
  return text or NO_PROBE


def read_answer(said: Said, most: int) -> str:
  """What the teacher sees of an agent's unaided answer.

  Of a long one the first `most` characters, whole words, with [...] for the
  rest.
  """
  text = _stated(said.text)
  if len(text) > most:
    head = text[: most + 1]
    words = re.match(r"(.*\S)\s", head, re.DOTALL)
    text = (words[1] if words else head[:most]) + _CUT
  return text or NO_PROBE


def _teaching(said: Said, tokenizer: ChatTokenizer | None) -> Teaching:
  text, status = extract_teaching(said.text)
  if text is None:
    tokens = 0
  elif tokenizer is not None:
    tokens = len(tokenizer.encode(text))
  else:  # the teaching's part of what the teacher wrote
    tokens = math.ceil(said.tokens * len(text) / len(said.text))
  return Teaching(said, text, status, tokens)


def sampling(config: TeachConfig, role: str) -> tuple[int, float]:
  """(max_tokens, temperature) of what is asked for by a role."""
  if role == "student_probe":
    return config.max_probe_tokens, config.probe_temperature
  if role == "teacher":
    return config.max_teaching_tokens, config.teacher_temperature
  return config.max_solution_tokens, config.student_temperature


@dataclass(frozen=True)
class TeachingProtocol:
  """The stages, for one student and one teacher.

  Args:
    student, teacher: who answers; None where nobody is asked.
    prompts: the templates.
    config: lengths and temperatures; an EpisodeConfig where solutions are
      asked for.
    agent_chars: None: the student is a model. Else it is an agent: it samples
      as it likes and is not probed, and so many characters of its unaided
      answer are shown to the teacher.
    gather: gather_all or wait_all, for what is asked at the same time.
  """

  student: Speaker | None
  teacher: Speaker | None
  prompts: Prompts
  config: TeachConfig
  agent_chars: int | None = None
  gather: Callable = gather_all

  async def _ask(
    self, role: str, question: Question, *, n=1, number=(), **fields: str
  ) -> list[Said]:
    max_tokens, temperature = sampling(self.config, role)
    replicate = question.replicate
    # Greedy samples of one prompt are all equal; an agent samples as it likes.
    greedy = temperature == 0 and self.agent_chars is None
    if greedy and role in ("student_baseline", "student_probe"):
      n, replicate = 1, 0
    seed = question.seed
    if seed is not None:
      stage = STAGES[role]
      seed = request_seed(*seed, question.key, stage, replicate, *number)
    group = question.seed, question.key  # of a step, so that it is balanced
    speaker = self.teacher if role == "teacher" else self.student
    return await speaker.say(
      self.prompts.render(role, {"question": question.text, **fields}),
      Ask(role, max_tokens, temperature, n, seed, replicate, group),
    )

  async def baseline(self, question: Question, n: int = 1) -> list[Said]:
    """n unaided solutions; one at temperature 0, where all are equal.

    Raises:
      NoAnswer: as every method here.
    """
    return await self._ask("student_baseline", question, n=n)

  async def probe(self, question: Question) -> Said:
    """The student's plan, in its own words; see `read`."""
    if self.config.max_probe_tokens == 0:
      return Said("", 0, "stop")
    (said,) = await self._ask("student_probe", question)
    return said

  def read(self, said: Said) -> str:
    """What the teacher sees of a probe, or of an agent's unaided answer."""
    if self.agent_chars is not None:
      return read_answer(said, self.agent_chars)
    shown = self.config.shown_probe_tokens
    return read_probe(said, shown, self.student.tokenizer)

  async def teach(
    self, question: Question, probe: str, n: int = 1
  ) -> list[Teaching]:
    """n teachings for what the teacher sees of a probe."""
    said = await self._ask("teacher", question, n=n, probe=probe)
    return [_teaching(s, self.teacher.tokenizer) for s in said]

  async def taught(
    self, question: Question, teaching: str | None, number: int = 0
  ) -> Said:
    """The student's solution under a teaching, the `number`th of its group."""
    (said,) = await self._ask(
      "student_taught", question, number=(number,), teaching=teaching or ""
    )
    return said

  async def lesson(
    self, question: Question, said: Said, group: int = 1
  ) -> tuple[str, tuple[Teaching, ...]]:
    """(what the teacher saw of the probe, teachings with their solutions)."""
    probe = self.read(said)
    teachings = await self.teach(question, probe, group)
    solutions = await self.gather(
      [self.taught(question, t.text, i) for i, t in enumerate(teachings)]
    )
    both = zip(teachings, solutions, strict=True)
    return probe, tuple(replace(t, taught=taught) for t, taught in both)

  async def episode(
    self,
    problem: Problem,
    question: Question,
    *,
    group: int = 1,
    baseline: Awaitable[Sequence[Said]] | None = None,
  ) -> TeachingEpisode:
    """The whole walk.

    Args:
      problem: whose question is asked.
      question: of it, with its seed.
      group: teachings.
      baseline: the unaided solutions; None: one is asked for.
    """
    if baseline is None:
      baseline = self.baseline(question)

    async def probed():
      said = await self.probe(question)
      return said, *await self.lesson(question, said, group)

    if self.agent_chars is None:
      alone, rest = await self.gather([baseline, probed()])
    else:
      alone = await baseline
      rest = (alone[0], *await self.lesson(question, alone[0], group))
    said, probe, teachings = rest
    return TeachingEpisode(
      problem=problem,
      baseline=tuple(alone),
      probe=probe,
      teachings=teachings,
      seconds={
        "baseline": max(s.seconds for s in alone),
        "probe": said.seconds,
        "teach": max(t.said.seconds for t in teachings),
        "taught": max(t.taught.seconds for t in teachings),
      },
    )
