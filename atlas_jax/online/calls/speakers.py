"""Chat models and agents as speakers of the teaching protocol."""

from dataclasses import dataclass, field

from atlas_jax.episode_config import ChatTemplateKwargs
from atlas_jax.online.calls.calls import Agent, ChatModel, Reply, Request
from atlas_jax.teaching.speakers import STAGES, Ask, NoAnswer, Said

# Statuses of replies that say nothing about the prompts.
FAILED = ("error", "timeout")


def tokens_of(reply: Reply) -> int:
  """Tokens of a reply; about one in four bytes where nobody counted."""
  if reply.completion_tokens is not None:
    return reply.completion_tokens
  return max(1, len((reply.text or "").encode()) // 4)


def said_of(reply: Reply, role: str) -> Said:
  """What a reply says; one without words is an answer too.

  Raises:
    NoAnswer: the model failed.
  """
  if reply.status in FAILED:
    raise NoAnswer(STAGES[role], reply.status, reply.error)
  reason = "length" if reply.status == "truncated" else "stop"
  return Said(reply.text or "", tokens_of(reply), reason, reply.seconds)


@dataclass(frozen=True)
class ModelSpeaker:
  """A chat model: the prompt is its one user message."""

  model: ChatModel
  template_kwargs: ChatTemplateKwargs = field(
    default_factory=ChatTemplateKwargs
  )
  tokenizer: None = None

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    """See Speaker.

    Raises:
      BudgetSpent: as ChatModel.chat.
    """
    request = Request(
      role=ask.role,
      messages=({"role": "user", "content": prompt},),
      max_tokens=ask.max_tokens,
      temperature=ask.temperature,
      seed=ask.seed,
      replicate=ask.replicate,
      template_kwargs=self.template_kwargs.of(ask.role),
    )
    return [said_of(await self.model.chat(request), ask.role)]

  async def aclose(self) -> None:
    await self.model.aclose()


@dataclass(frozen=True)
class AgentSpeaker:
  """An agent: it samples as it likes."""

  agent: Agent
  tokenizer: None = None

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    """See Speaker.

    Raises:
      BudgetSpent: as Agent.ask.
    """
    reply = await self.agent.ask(
      prompt, role=ask.role, seed=ask.seed, replicate=ask.replicate
    )
    return [said_of(reply, ask.role)]

  async def aclose(self) -> None:
    await self.agent.aclose()
