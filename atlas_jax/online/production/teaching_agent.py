"""An agent that is taught before it answers, for Python programs.

    taught = TeachingAgent(my_agent, teacher, "runs/evolve/best_prompts.json")
    print(taught.ask("How many primes are below 30?"))

The agent answers alone; the teacher reads that answer and teaches; the agent
answers again, under the teaching. Where the teacher is late, fails or writes
no teaching, the first answer is the answer: it is paid already, and nothing
that fails makes it worse.
"""

import atexit
import collections
import concurrent.futures
import dataclasses
import pathlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from atlas_jax.config import PromptsConfig
from atlas_jax.episode_config import EpisodeConfig, TeachConfig
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.asker import Asker
from atlas_jax.online.calls.model_config import Wording
from atlas_jax.online.calls.speakers import AskerSpeaker
from atlas_jax.online.production import outcomes
from atlas_jax.online.production.once import as_agent, as_teacher
from atlas_jax.serving.events import EventLoop
from atlas_jax.teaching.prompts import (
  Prompts,
  load_prompts,
  prompts_config,
  strip_thinking,
)
from atlas_jax.teaching.protocol import Question, Teaching, TeachingProtocol
from atlas_jax.teaching.speakers import NoAnswer

_TEACH, _WORDING = TeachConfig(), Wording()
# Characters of the agent's own answer that the teacher reads as its plan.
_PROBE_CHARS = 4000


class AgentFailed(AtlasError):
  """The agent gave no answer of its own; the text says why."""


@dataclass(frozen=True)
class TaughtAnswer:
  """What was answered. str() of it is the text.

  text is without private thinking. outcome is one of outcomes.OUTCOMES; probe
  is what the teacher read of the agent's own answer. teaching is None where the
  teacher gave no answer; its `taught` is None where the agent did not.
  """

  text: str
  outcome: str
  probe: str
  teaching: Teaching | None = None

  def __str__(self) -> str:
    return self.text


class TeachingAgent:
  """Puts the teaching protocol around an agent.

  ask blocks, aask is awaited. What it opens belongs to one event loop: use
  one of the two, and aask always from the same loop. counts holds how many
  questions ended with each outcome.

  Args:
    agent: an open agent, or a function (sync or async) from a prompt to an
      answer.
    teacher: an open model (with its retries and ledger), or the address
      of an OpenAI-compatible server (http://HOST:PORT/v1, or
      http://HOST:PORT/v1#MODEL where it has several), or a LiteLLM name;
      those are asked once a question, without a cap on spend.
    prompts: the templates by name, or the path of a best_prompts.json. The
      agent gets every question by student_baseline ("{question}" leaves it as
      it is).
    inject: the template, with {question} and {teaching}, by which a teaching
      reaches the agent; None: student_taught.
    teach: how the teacher is sampled.
    teach_deadline_s: seconds that the teacher may take.
    teacher_key: the key of a teacher that is named by address or name.
    wording: how requests to a named teacher say their length and sampling.

  Raises:
    PromptError: the prompts are not valid.
    ConfigError: LiteLLM is not installed or does not know the teacher, or
      teacher_key cannot be a key.
    TypeError: agent or teacher is none.
  """

  def __init__(
    self,
    agent: Asker | Callable[[str], object],
    teacher: Asker | str,
    prompts: PromptsConfig | Mapping[str, str] | str | pathlib.Path,
    *,
    inject: str | None = None,
    teach: TeachConfig = _TEACH,
    teach_deadline_s: float = outcomes.TEACH_DEADLINE_S,
    teacher_key: str | None = None,
    wording: Wording = _WORDING,
  ):
    self.counts: collections.Counter[str] = collections.Counter()
    templates = Prompts(_templates(prompts, inject), teach.stated_probe_tokens)
    self._agent = as_agent(agent)
    self._teacher = as_teacher(teacher, teacher_key, teach_deadline_s, wording)
    self._protocol = TeachingProtocol(
      AskerSpeaker(self._agent),
      AskerSpeaker(self._teacher, teach.chat_template_kwargs),
      templates,
      EpisodeConfig(**vars(teach)),
      agent_chars=_PROBE_CHARS,
    )
    self._deadline_s = teach_deadline_s
    self._asked = 0
    self._opening = threading.Lock()
    self._events: EventLoop | None = None

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def ask(self, question: str) -> TaughtAnswer:
    """The answer. Several threads may ask at one time.

    Raises:
      AgentFailed: the agent gave none of its own, or close() was called.
      BudgetSpent: the agent has a budget, and it is spent.
    """
    with self._opening:
      if self._events is None:
        self._events = EventLoop()
        atexit.register(self._leave)
      answer = self._events.submit(self.aask(question))
    try:
      return answer.result()
    except concurrent.futures.CancelledError:
      raise AgentFailed(f"{self._agent.name}: closed meanwhile") from None
    except BaseException:
      answer.cancel()
      raise

  async def aask(self, question: str) -> TaughtAnswer:
    """See ask."""
    self._asked += 1
    # Another replicate each time: what is asked twice is sampled twice.
    asked = Question(question, replicate=self._asked)
    try:
      (said,) = await self._protocol.baseline(asked)
    except NoAnswer as failure:
      raise AgentFailed(f"{self._agent.name}: {failure}") from None
    if not said.text:
      raise AgentFailed(f"{self._agent.name}: empty")
    probe = self._protocol.read(said)
    outcome, teaching = await outcomes.teaching(
      self._protocol.teach(asked, probe), self._deadline_s
    )
    if outcome == "taught":
      _, taught = await outcomes.extra(
        "second answer", self._protocol.taught(asked, teaching.text)
      )
      teaching = dataclasses.replace(teaching, taught=taught)
      if taught is not None and strip_thinking(taught.text):
        said = taught
      else:
        outcome = "alone_taught_failed"
    self.counts[outcome] += 1
    # Thinking that never ended has no answer after it: shown as it is.
    text = strip_thinking(said.text)
    shown = said.text if text is None else text
    return TaughtAnswer(shown, outcome, probe, teaching)

  def close(self) -> None:
    """Closes agent and teacher, for who used ask; the exit does it too.

    Questions under way end with AgentFailed.
    """
    with self._opening:
      atexit.unregister(self._leave)
      events, self._events = self._events or EventLoop(), None
    try:
      events.cancel()
      events.run(self.aclose())
    finally:
      events.close()

  def _leave(self) -> None:
    """close, for a program that ends: threads that still ask end with it."""
    self._events.run(self.aclose())

  async def aclose(self) -> None:
    """Closes agent and teacher, for who used aask."""
    await self._agent.aclose()
    await self._teacher.aclose()


def _templates(prompts, inject: str | None) -> PromptsConfig:
  if isinstance(prompts, str | pathlib.Path):
    prompts = load_prompts(prompts)
  if isinstance(prompts, PromptsConfig):
    prompts = vars(prompts)
  changed = {} if inject is None else {"student_taught": inject}
  return prompts_config({**prompts, **changed}, "prompts")
