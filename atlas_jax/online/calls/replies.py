"""What is asked of a model or an agent, and what came back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from atlas_jax.errors import AtlasError


@dataclass(frozen=True)
class ChatRequest:
  """One call of a chat model.

  role says for what it is made (student_baseline, reflection, ...): the
  ledger keeps costs by it. Equal requests with different replicate numbers
  are different samples; seed None leaves sampling to the server.
  template_kwargs are for the chat template of a server that takes them.
  """

  role: str
  messages: tuple[Mapping[str, str], ...]
  max_tokens: int
  temperature: float
  seed: int | None = None
  replicate: int = 0
  template_kwargs: Mapping = field(default_factory=dict)

  @property
  def extra(self) -> dict:
    """What a server takes beside the fields of OpenAI; often nothing."""
    kwargs = dict(self.template_kwargs)
    return {"chat_template_kwargs": kwargs} if kwargs else {}


@dataclass(frozen=True)
class Reply:
  """An answer, or why there is none. A reply that is not ok is never scored.

  status is one of
    ok         an answer
    truncated  cut at max_tokens; text holds what there was
    empty      no text (null content, white space only)
    timeout    no answer at the deadline
    error      refused, broken, or failed at every attempt

  Tokens are the server's own count (None: it says none), dollars the price of
  all attempts (None: unpriced), seconds what they took, without the wait for a
  turn at the client. cached: it came from the record and cost nothing now.
  """

  status: str
  text: str | None = None
  prompt_tokens: int | None = None
  completion_tokens: int | None = None
  dollars: float | None = None
  seconds: float = 0.0
  attempts: int = 1
  cached: bool = False
  error: str | None = None
  code: int | None = None  # the HTTP status of a refusal

  @property
  def ok(self) -> bool:
    return self.status == "ok"


class BudgetSpent(AtlasError):
  """A call would overshoot a cap; nothing was sent. The text names the cap."""


class ChatModel(Protocol):
  """Models by LiteLLM, by URL, or a callable; see models.py."""

  name: str

  async def chat(self, request: ChatRequest) -> Reply:
    """One answer.

    Raises:
      BudgetSpent: the ledger has no room for it.
    """

  async def aclose(self) -> None: ...


class Agent(Protocol):
  """Anything that answers one prompt: an agent that the user already has."""

  name: str

  async def ask(
    self, prompt: str, *, role: str, seed: int | None, replicate: int
  ) -> Reply:
    """One answer, never an exception for a failure of the agent itself.

    Raises:
      BudgetSpent: as in ChatModel.
    """

  async def aclose(self) -> None: ...
