"""Models and agents as speakers of the teaching protocol."""

from dataclasses import dataclass, field

from atlas_jax.episode_config import ChatTemplateKwargs
from atlas_jax.online.calls.asker import Asker
from atlas_jax.online.calls.calls import Reply, Request
from atlas_jax.teaching.speakers import STAGES, Ask, NoAnswer, Said

# Statuses of replies that say nothing about the prompts.
FAILED = ("error", "timeout")


def said_of(reply: Reply, role: str) -> Said:
  """What a reply says; one without words is an answer too.

  Raises:
    NoAnswer: the model failed.
  """
  if reply.status in FAILED:
    raise NoAnswer(STAGES[role], reply.status, reply.error)
  text, tokens = reply.text or "", reply.completion_tokens
  if tokens is None:  # nobody counted: about one in four bytes
    tokens = max(1, len(text.encode()) // 4)
  reason = "length" if reply.status == "truncated" else "stop"
  return Said(text, tokens, reason, reply.seconds)


@dataclass(frozen=True)
class AskerSpeaker:
  """A model or an agent: the prompt is its one user message.

  template_kwargs: of a chat template, by role; an agent has none.
  """

  asker: Asker
  template_kwargs: ChatTemplateKwargs = field(
    default_factory=ChatTemplateKwargs
  )
  tokenizer: None = None

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    """See Speaker.

    Raises:
      BudgetSpent, ModelRefused: as Asker.ask.
    """
    request = Request(
      role=ask.role,
      prompt=prompt,
      max_tokens=ask.max_tokens,
      temperature=ask.temperature,
      seed=ask.seed,
      replicate=ask.replicate,
      template_kwargs=self.template_kwargs.of(ask.role),
    )
    return [said_of(await self.asker.ask(request), ask.role)]
