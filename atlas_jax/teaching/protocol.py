"""The teaching protocol: one walk for training, evaluation and online use.

    question -> student: unaided solutions (baseline)     \\ at the same time
             -> student: its plan in few words (probe)    /
    question + probe -> teacher: a group of teachings, one request
    question + each teaching -> student: one solution each (taught)

Who answers is a Speaker: a server of the run (requests.py), a chat model or an
agent (online/protocol.py). An agent is not probed: the teacher reads its
unaided answer.

How a probe is read, on every road (`read_probe`):
  1. private thinking that ends is left out;
  2. thinking that does not end is shown without its tag: it is all there is;
  3. the teacher sees at most `shown_probe_tokens` tokens of what is left, by
     the student's tokenizer, or by `_PIECE` where there is none;
  4. where nothing is left it reads NO_PROBE, and the walk goes on.
A teaching that is not well-formed ends nothing either: the student gets an
empty one (prompts.extract_teaching).
"""

import asyncio
import dataclasses
import hashlib
import math
import re
import typing
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass

from atlas_jax.config import EpisodeConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.problems import Problem
from atlas_jax.teaching.prompts import Prompts, extract_teaching

# role (the template that is asked with) -> what a person calls the stage
STAGES = {
  "student_baseline": "baseline",
  "student_probe": "probe",
  "teacher": "teaching",
  "student_taught": "taught",
}
# What the teacher reads in place of a probe that states nothing.
NO_PROBE = "(The student stated no plan.)"
CUT = " [...]"
# Without a tokenizer a token is up to six letters of a word, or one mark.
_PIECE = re.compile(r"\w{1,6}|[^\w\s]")


@dataclass(frozen=True)
class Ask:
  """How a prompt is to be answered.

  role is the template that the prompt was rendered from. Equal asks with
  another replicate are other samples; seed None leaves sampling to the server.
  """

  role: str
  max_tokens: int
  temperature: float
  n: int = 1
  seed: int | None = None
  replicate: int = 0


@dataclass(frozen=True)
class Sample:
  """What a server of ours sampled; see serving.client.Completion."""

  prompt_ids: tuple[int, ...]
  token_ids: tuple[int, ...]
  logprobs: tuple[float, ...]
  weight_version: str | int


@dataclass(frozen=True)
class Said:
  """One answer. tokens counts all of it, the end included; text may be empty.

  sample is there where it can be trained on; seconds are those of its request.
  """

  text: str
  tokens: int
  finish_reason: str  # stop | length
  seconds: float = 0.0
  sample: Sample | None = None


class NoAnswer(RuntimeError):
  """A speaker failed: nothing is known of what it would have said.

  stage is of STAGES; status is 'error' or 'timeout'. (The servers of a run
  raise ServerError and ServerDown instead, which end a step.)
  """

  def __init__(self, stage: str, status: str, why: str | None = None):
    super().__init__(f"{stage}: {status} {why or ''}".strip())
    self.stage, self.status = stage, status


class Speaker(typing.Protocol):
  """Anything that answers prompts. tokenizer: None where it is not known."""

  tokenizer: ChatTokenizer | None

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    """`ask.n` answers.

    Raises:
      NoAnswer: there is none.
    """


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
  teaching). tokens counts text alone. taught is None before it was asked for.
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
  raise NotImplementedError


async def wait_all(work: Sequence[Coroutine]) -> list:
  """As gather_all, but a failure is raised when all are over: they are paid."""
  raise NotImplementedError


def request_seed(*parts: str | int) -> int:
  """A seed below 2**31 - 2**16, the same for the same parts everywhere."""
  raise NotImplementedError


def read_probe(said: Said, most: int, tokenizer: ChatTokenizer | None) -> str:
  """What the teacher sees of a probe: at most `most` tokens; see the module."""
  raise NotImplementedError


def read_answer(said: Said, most_chars: int) -> str:
  """What the teacher sees of an agent's unaided answer.

  Of a long one the first `most_chars` characters, whole words, with [...] for
  the rest.
  """
  raise NotImplementedError


@dataclass(frozen=True)
class TeachingProtocol:
  """The stages, for one student and one teacher.

  Args:
    student, teacher: who answers; teacher None: there is none to ask.
    prompts: the templates.
    config: lengths and temperatures.
    agent_chars: None: the student is a model. Else it is an agent: it samples
      as it likes and is not probed, and so many characters of its unaided
      answer are shown to the teacher.
    gather: gather_all or wait_all, for what is asked at the same time.
  """

  student: Speaker
  teacher: Speaker | None
  prompts: Prompts
  config: EpisodeConfig
  agent_chars: int | None = None
  gather: Callable = gather_all

  async def baseline(self, question: Question, n: int = 1) -> list[Said]:
    """n unaided solutions; one at temperature 0, where all are equal.

    Raises:
      NoAnswer: as every method here.
    """
    raise NotImplementedError

  async def probe(self, question: Question) -> str:
    """The student's plan, as the teacher reads it."""
    raise NotImplementedError

  async def teach(
    self, question: Question, probe: str, n: int = 1
  ) -> list[Teaching]:
    """n teachings for a probe, not yet given to the student."""
    raise NotImplementedError

  async def taught(
    self, question: Question, teaching: str, number: int = 0
  ) -> Said:
    """The student's solution under a teaching, the `number`th of its group."""
    raise NotImplementedError

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
      baseline: the unaided solutions, where they come from elsewhere.
    """
    raise NotImplementedError
