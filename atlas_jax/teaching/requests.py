"""Requests to the teacher and the student, each with a seed of its own."""

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from atlas_jax.config import EpisodeConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.problems import Problem
from atlas_jax.serving.client import Completion, Sampling
from atlas_jax.teaching.prompts import Prompts


class Generates(Protocol):
  """What a sampler must offer; serving.client.Client does."""

  async def generate(
    self,
    token_ids: Sequence[int],
    sampling: Sampling,
    *,
    cache_salt: str | None = None,
  ) -> list[Completion]: ...


@dataclass(frozen=True)
class Role:
  """Who answers, the teacher or the student.

  version names the weights: prefixes are cached under it by the server, and
  baselines by the run. It must change whenever the weights do.
  """

  client: Generates
  chat: ChatTokenizer
  version: str


@dataclass(frozen=True)
class Solution:
  """A student's response. tokens counts all of it, the end included."""

  text: str
  tokens: int
  finish_reason: str


def request_seed(*parts: str | int) -> int:
  """A seed below 2**31 - 2**16, the same for the same parts everywhere."""
  text = "\x1f".join(str(part) for part in parts)
  digest = hashlib.sha256(text.encode()).digest()
  # Sample i of a request is drawn with seed + i: leave room below 2**31.
  return int.from_bytes(digest[:8], "big") % (2**31 - 2**16)


async def gather_all(work: Sequence[Coroutine]) -> list[Any]:
  """The results in order; the first failure ends the rest and is raised."""
  tasks = [asyncio.ensure_future(w) for w in work]
  try:
    return await asyncio.gather(*tasks)
  except BaseException:
    for task in tasks:
      task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    raise


@dataclass(frozen=True)
class Requests:
  """One request of each kind, with the seeds of one step."""

  student: Role
  prompts: Prompts
  config: EpisodeConfig
  seed: tuple[str | int, ...]

  async def ask(
    self, role: Role, ids, seed_parts, *, max_tokens, temperature, n=1
  ) -> list[Completion]:
    sampling = Sampling(
      max_tokens=max_tokens,
      temperature=temperature,
      n=n,
      seed=request_seed(*seed_parts),
      stop_token_ids=role.chat.stop_ids,
    )
    return await role.client.generate(ids, sampling, cache_salt=role.version)

  async def solve(self, template, fields, seed_parts, n=1) -> list[Solution]:
    """Solutions of the student to one rendered template."""
    ids = self.student.chat.prompt_ids(self.prompts.render(template, fields))
    completions = await self.ask(
      self.student,
      ids,
      seed_parts,
      max_tokens=self.config.max_solution_tokens,
      temperature=self.config.student_temperature,
      n=n,
    )
    return [
      Solution(c.text, len(c.token_ids), c.finish_reason) for c in completions
    ]

  async def probe(self, problem: Problem, number: int) -> str:
    """The student's approach, in its own words."""
    text = self.prompts.render(
      "student_diagnostic", {"question": problem.question}
    )
    (completion,) = await self.ask(
      self.student,
      self.student.chat.prompt_ids(text),
      (*self.seed, problem.id, "probe", number),
      max_tokens=self.config.max_probe_tokens,
      temperature=self.config.probe_temperature,
    )
    return completion.text.strip()

  async def teach(self, teacher: Role, problem, approach, number, n):
    """(prompt ids, n completions of the teacher)."""
    text = self.prompts.render(
      "teacher_adaptive",
      {"question": problem.question, "approach": approach},
    )
    ids = tuple(teacher.chat.prompt_ids(text))
    completions = await self.ask(
      teacher,
      ids,
      (*self.seed, problem.id, "teach", number),
      max_tokens=self.config.max_teaching_tokens,
      temperature=self.config.teacher_temperature,
      n=n,
    )
    return ids, completions

  async def guided(self, problem, teaching: str, *number) -> Solution:
    """The student's solution under a teaching."""
    (solution,) = await self.solve(
      "student_with_teaching",
      {"question": problem.question, "teaching": teaching},
      (*self.seed, problem.id, "guided", *number),
    )
    return solution


def teaching_length(teacher: Role, text: str | None) -> int:
  """Tokens of the teaching itself; 0 where there is none."""
  return 0 if text is None else len(teacher.chat.encode(text))
