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
     the student's tokenizer, or by _PIECE where there is none;
  4. where nothing is left it reads NO_PROBE, and the walk goes on.
A teaching that is not well-formed ends nothing either: the student gets an
empty one (prompts.extract_teaching).
"""

import asyncio
import hashlib
import math
import re
import typing
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace

from atlas_jax.config import TeachConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.problems import Problem
from atlas_jax.errors import AtlasError
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
_CUT = " [...]"
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
  """What a server of the run sampled; see serving.client.Completion."""

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


class NoAnswer(AtlasError, RuntimeError):
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
  """As gather_all, but all are waited for, since they are paid.

  Raises:
    NoAnswer: only where nothing else was raised.
  """
  results = await asyncio.gather(*work, return_exceptions=True)
  errors = [r for r in results if isinstance(r, BaseException)]
  for error in sorted(errors, key=lambda e: isinstance(e, NoAnswer)):
    raise error
  return results


def request_seed(*parts: str | int) -> int:
  """A seed below 2**31 - 2**16, the same for the same parts everywhere."""
  text = "\x1f".join(str(part) for part in parts)
  digest = hashlib.sha256(text.encode()).digest()
  # Sample i of a request is drawn with seed + i: leave room below 2**31.
  return int.from_bytes(digest[:8], "big") % (2**31 - 2**16)


def _stated(text: str) -> str:
  """A text without its thinking, unless that never ends."""
  return text.rpartition("</think>")[2].replace("<think>", " ").strip()


def read_probe(said: Said, most: int, tokenizer: ChatTokenizer | None) -> str:
  """What the teacher sees of a probe: at most `most` tokens; see the module."""
  text = _stated(said.text)
  if tokenizer is None:
    pieces = list(_PIECE.finditer(text))
    if len(pieces) > most:
      text = text[: pieces[most - 1].end()]
  elif said.tokens > most and len(ids := tokenizer.encode(text)) > most:
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


@dataclass(frozen=True)
class TeachingProtocol:
  """The stages, for one student and one teacher.

  Args:
    student, teacher: who answers; None: nobody does, and nobody is asked.
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
    self, role, question, max_tokens, temperature, n=1, fields=(), number=()
  ) -> list[Said]:
    greedy = temperature == 0 and self.agent_chars is None
    replicate = 0 if greedy else question.replicate
    ask = Ask(
      role,
      max_tokens,
      temperature,
      n=n,
      seed=None
      if question.seed is None
      else request_seed(*question.seed, question.key, role, replicate, *number),
      replicate=replicate,
    )
    prompt = self.prompts.render(role, {"question": question.text, **fields})
    speaker = self.teacher if role == "teacher" else self.student
    return await speaker.say(prompt, ask)
