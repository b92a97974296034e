"""A Python function as a model: function(messages, sampling) -> text."""

from collections.abc import Callable

from atlas_jax.online.calls import threads
from atlas_jax.online.calls.calls import Answer, CallFailed, Request
from atlas_jax.online.calls.chat_json import is_unicode


class CallableCalls:
  """Calls a function, sync (in a thread of its own) or async.

  It is given a list of messages and a dict of max_tokens, temperature, seed,
  replicate and the config's extra. None means no answer. ConnectionError and
  TimeoutError are tried again; another exception is an error at once.
  """

  prices = None

  def __init__(self, function: Callable, *, name: str, extra: dict):
    self._function = function
    self._name = name
    self._extra = extra

  async def aclose(self) -> None:
    """Nothing to do."""

  async def name(self) -> str:
    return self._name

  async def send(self, request: Request) -> Answer:
    """One attempt.

    Raises:
      CallFailed: the function raised, or returned what is no text.
    """
    messages = [dict(m) for m in request.messages]
    sampling = self._extra | {
      "max_tokens": request.max_tokens,
      "temperature": request.temperature,
      "seed": request.seed,
      "replicate": request.replicate,
    }
    try:
      text = await threads.call(self._function, messages, sampling)
    except (ConnectionError, TimeoutError) as error:
      raise CallFailed(f"{type(error).__name__}: {error}") from None
    except (Exception, SystemExit) as error:
      raise CallFailed(
        f"{type(error).__name__}: {error}", again=False
      ) from None
    if text is not None and not isinstance(text, str):
      raise CallFailed(
        f"{self._name} returned {type(text).__name__}, expected text",
        again=False,
      )
    if text is not None and not is_unicode(text):
      raise CallFailed(
        f"what {self._name} returned is not valid Unicode", again=False
      )
    return Answer(text, "stop", text_is_all=True)
