"""What is asked of a model or an agent, what came back, and what it means.

One policy holds for failed attempts, whatever the model is called by:

1. What atlas_jax/retries.py says may pass by, and empty answers and broken
   JSON too, are tried again, `retries` times at most.
2. The wait is that of retries.py; a Retry-After holds for all requests to that
   endpoint.
3. An answer that is cut before max_tokens is tried again once; cut again, it
   is a limit of the server and counts as truncated.
4. A refused or missing key, a spent account or an unknown model fails every
   call: it is told once, costs nothing, and nothing more is sent.
5. What is no chat completion is tried again once; twice alike, it stays so.
6. Any other 4xx, a redirect and an answer that is too large are errors at once.
"""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from atlas_jax import retries
from atlas_jax.errors import AtlasError
from atlas_jax.serving import http

_HOPELESS = {
  401: "refuses the key",
  402: "wants to be paid",
  403: "forbids it",
  404: "does not know the model",
}
# What providers say of an account or a key under any status, and its true one.
_SAID = {
  402: re.compile(
    "(?i:insufficient[_ ](?:quota|balance|credits)|credit balance is too low)"
    "|billing_(?:hard_limit|not_active)|[Pp]ayment_required|Payment Required"
    "|requires more credits|Arrearage"
  ),
  401: re.compile(
    r"(?:invalid|incorrect|missing|expired|no)[_ ](?:\w+ )?api[_ -]?key"
    "|api[_ ]key (?:not valid|client option|is (?:invalid|missing|not set))"
    "|missing credentials|authentication_?error",
    re.IGNORECASE,
  ),
}


@dataclass(frozen=True)
class Request:
  """One question to a model, its one user message, or to an agent.

  role says for what it is made (student_baseline, reflection, ...): the
  ledger keeps costs by it. Equal requests with different replicate numbers
  are different samples; seed None leaves sampling to the server.
  template_kwargs are for the chat template of a server that takes them. An
  agent has lengths and a temperature of its own (None).
  """

  role: str
  prompt: str
  max_tokens: int | None = None
  temperature: float | None = None
  seed: int | None = None
  replicate: int = 0
  template_kwargs: Mapping = field(default_factory=dict)

  @property
  def messages(self) -> list[dict[str, str]]:
    """As a chat."""
    return [{"role": "user", "content": self.prompt}]

  @property
  def sampling(self) -> dict:
    """How long the answer may be, and how it is drawn."""
    names = ("max_tokens", "temperature", "seed")
    return {name: getattr(self, name) for name in names}

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

  Tokens are the server's own count (None: it says none), seconds what all
  attempts took, without the wait for a turn at the client. failed: how the last
  attempt did.
  """

  status: str
  text: str | None = None
  prompt_tokens: int | None = None
  completion_tokens: int | None = None
  seconds: float = 0.0
  error: str | None = None
  failed: "CallFailed | None" = field(default=None, compare=False, repr=False)

  @property
  def ok(self) -> bool:
    return self.status == "ok"

  @property
  def code(self) -> int | None:
    """The HTTP status of a refusal."""
    return None if self.failed is None else self.failed.code


class ModelRefused(AtlasError):
  """No call of this model can succeed; the text says why. Nothing is sent."""


@dataclass(frozen=True)
class Answer:
  """What a server or an agent said, before it is judged.

  Tokens None: it did not say. dollars is a price told by the library that made
  the call. text_is_all: nothing was generated besides the text, such as
  private thinking. said: all that was said, where the text is a part of it
  (None: the text is all). read: how the text was found, for a person. final:
  where it is empty, another attempt would be empty too.
  """

  text: str | None
  finish_reason: str | None
  prompt_tokens: int | None = None
  completion_tokens: int | None = None
  dollars: float | None = None
  text_is_all: bool = False
  said: str | None = None
  read: str | None = None
  final: bool = False


class Transport(Protocol):
  """What carries one request once: to LiteLLM, a URL, a function, an agent."""

  repeats = True  # an attempt that failed may be made again
  # Of the most that (prompt, completion) cost, dollars a million tokens.
  prices: tuple[float, float] | None = None

  async def send(self, request: Request) -> Answer:
    """One attempt; when it is cancelled it leaves nothing running.

    Raises:
      CallFailed: it brought no answer. Another Exception means the same, and
        that only a ConnectionError or a TimeoutError may pass by.
    """

  async def aclose(self) -> None:
    """Closes what stays open between requests, if anything does."""


@dataclass(eq=False, repr=False)
class CallFailed(AtlasError):
  """One attempt brought no answer; the text says what happened."""

  error: str
  _: KW_ONLY
  status: str = "error"  # as Reply.status: error, timeout, empty, truncated
  code: int | None = None  # the HTTP status, where there is one
  again: bool = True  # another attempt may succeed
  odd: bool = False  # another may, but not if it brings the same
  declined: bool = False  # it is the model that will not answer
  billed: bool = True  # it may have been paid; False: nothing was generated
  retry_after: float | None = None  # seconds that the server asks to wait

  def __post_init__(self):
    super().__init__(self.error)
    said = (c for c, words in _SAID.items() if words.search(self.error))
    if (code := next(said, None)) is not None:
      self.code, self.again, self.billed = code, False, False

  def hopeless(self, answered: bool) -> str | None:
    """Why no other call can succeed either.

    answered: the model gave an answer before; then 403 and 404 are about one
    request (moderation, say).
    """
    if answered and self.code in (403, 404):
      return None
    return _HOPELESS.get(self.code)


def refused(
  code: int, text: str, headers: Mapping[str, str], *, see: str = ""
) -> CallFailed:
  """The failure that an HTTP status other than 200 means.

  text: the body. see: what may mend a request that the server does not like.
  """
  hint = f"see {see}; it said: " if see and code in (400, 422) else ""
  return CallFailed(
    f"HTTP {code}: {hint}{text}",
    status="timeout" if code == 408 else "error",
    code=code,
    again=retries.may_pass(code),
    billed=False,
    retry_after=retries.retry_after(headers, body=text if code == 429 else ""),
  )


@contextlib.asynccontextmanager
async def in_time(timeout_s: float | None):
  """Makes a CallFailed of a late end, and of whatever else is raised."""
  try:
    async with asyncio.timeout(timeout_s) as clock:
      yield
  except CallFailed:
    raise
  except Exception as error:
    if isinstance(error, TimeoutError) and clock.expired():
      late = f"no answer in {timeout_s:g} s"
      raise CallFailed(late, status="timeout") from None
    # What others send or raise is not ours: it ends an attempt, and no run.
    again = isinstance(error, ConnectionError | TimeoutError)
    text = f"{type(error).__name__}: {error}"
    raise CallFailed(text, again=again) from None


def untaken(error: http.Untaken) -> CallFailed:
  """The failure that an answer means which the client does not take."""
  billed = not isinstance(error, http.Redirected)
  return CallFailed(str(error), again=False, billed=billed)
