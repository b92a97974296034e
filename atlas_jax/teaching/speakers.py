"""Who answers in the teaching protocol: what is asked, and what comes back.

Here are the servers of a run, which sample what is trained on. Chat models and
agents are speakers of online/calls/speakers.py.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.episode_config import ChatTemplateKwargs
from atlas_jax.errors import AtlasError
from atlas_jax.serving.client import Completion, Sampling
from atlas_jax.serving.fleet import Fleet

# role (the template that is asked with) -> what a person calls the stage
STAGES = {
  "student_baseline": "baseline",
  "student_probe": "probe",
  "teacher": "teach",
  "student_taught": "taught",
}


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
  # Where there are several servers, all prompts of one go to one server.
  group: Hashable = field(default=None, compare=False)


@dataclass(frozen=True)
class Said:
  """One answer. tokens counts all of it, the end included; text may be empty.

  seconds are those of its request. prompt_ids and sample are what a server of
  the run read and sampled, which can be trained on; others have none.
  """

  text: str
  tokens: int
  finish_reason: str  # stop | length
  seconds: float = 0.0
  prompt_ids: tuple[int, ...] = ()
  sample: Completion | None = None


class NoAnswer(AtlasError, RuntimeError):
  """A speaker failed: nothing is known of what it would have said.

  stage is of STAGES; status is 'error' or 'timeout'. (The servers of a run
  raise ServerError and ServerDown instead, which end a step.)
  """

  def __init__(self, stage: str, status: str, why: str | None = None):
    super().__init__(f"{stage}: {status} {why or ''}".strip())
    self.stage, self.status = stage, status


class Speaker(Protocol):
  """Anything that answers prompts. tokenizer: None where it is not known."""

  tokenizer: ChatTokenizer | None

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    """`ask.n` answers.

    Raises:
      NoAnswer: there is none.
    """


def request_seed(*parts: str | int) -> int:
  """A seed below 2**31 - 2**16, the same for the same parts everywhere."""
  text = "\x1f".join(str(part) for part in parts)
  digest = hashlib.sha256(text.encode()).digest()
  # Sample i of a request is drawn with seed + i: leave room below 2**31.
  return int.from_bytes(digest[:8], "big") % (2**31 - 2**16)


@dataclass(frozen=True)
class Once:
  """A speaker that answers equal asks once; a failure is forgotten.

  Args:
    speaker: who is asked.
    answers: by key; filled and used. Several of these may share it.
    key: of (prompt, ask).
  """

  speaker: Speaker
  answers: dict[Hashable, asyncio.Task]
  key: Callable[[str, Ask], Hashable]

  @property
  def tokenizer(self) -> ChatTokenizer | None:
    return self.speaker.tokenizer

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    key = self.key(prompt, ask)

    def forget(task: asyncio.Task) -> None:
      if task.cancelled() or task.exception() is not None:
        del self.answers[key]

    if key not in self.answers:
      task = asyncio.ensure_future(self.speaker.say(prompt, ask))
      task.add_done_callback(forget)
      self.answers[key] = task
    return await self.answers[key]


@dataclass(frozen=True)
class Role:
  """The servers of a role as a Speaker, the teacher or the student.

  version names the weights: prefixes are cached under it by the server, and
  baselines by the run. It must change whenever the weights do.
  """

  client: Fleet
  chat: ChatTokenizer
  version: str
  template_kwargs: ChatTemplateKwargs = field(
    default_factory=ChatTemplateKwargs
  )

  @property
  def tokenizer(self) -> ChatTokenizer:
    return self.chat

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    """See Speaker.

    Raises:
      ServerError, ServerDown: as the client.
    """
    begin = time.monotonic()
    kwargs = self.template_kwargs.of(ask.role)
    ids = tuple(self.chat.prompt_ids(prompt, kwargs))
    completions = await self.client.generate(
      ids,
      Sampling(
        max_tokens=ask.max_tokens,
        temperature=ask.temperature,
        n=ask.n,
        seed=ask.seed,
        stop_token_ids=self.chat.stop_ids,
      ),
      cache_salt=self.version,
      group=ask.group,
    )
    seconds = time.monotonic() - begin
    return [
      Said(c.text, len(c.token_ids), c.finish_reason, seconds, ids, c)
      for c in completions
    ]
