"""One OpenAI-compatible server, asked once: a proxy's client has no patience.

The models of an optimisation (online/models.py) retry, keep a ledger and a
record; here there is a deadline instead.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping

import aiohttp

from atlas_jax.online.replies import Reply

# Below what servers commonly keep (uvicorn: 5 s), so that a request does not
# meet a connection that is being closed.
_KEEP_ALIVE_S = 2.0


def open_session(
  connect_timeout_s: float, silence_timeout_s: float
) -> aiohttp.ClientSession:
  """The connections of a proxy; close it."""
  return aiohttp.ClientSession(
    connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
    timeout=aiohttp.ClientTimeout(
      total=None,
      sock_connect=connect_timeout_s,
      sock_read=silence_timeout_s,
    ),
  )


class Endpoint:
  """A server at `url` (.../v1).

  Args:
    session: from open_session.
    url: its address.
    model: put in place of the model that a body names; None: left as it is.
    key: its bearer token; None: none.
  """

  def __init__(
    self,
    session: aiohttp.ClientSession,
    url: str,
    *,
    model: str | None,
    key: str | None,
  ):
    self._session = session
    self._url = url.rstrip("/")
    self._model = model
    self._key = key

  def hide(self, text: str) -> str:
    """The text without the key: some servers repeat what they were sent."""
    return text.replace(self._key, "***") if self._key else text

  def _headers(self, authorization: str | None) -> dict[str, str]:
    if authorization is None and self._key:
      authorization = f"Bearer {self._key}"
    return {} if authorization is None else {"Authorization": authorization}

  @contextlib.asynccontextmanager
  async def post(
    self, body: Mapping, authorization: str | None = None
  ) -> AsyncIterator[aiohttp.ClientResponse]:
    """The response to a chat completion, with its content still to come.

    Args:
      body: the request.
      authorization: the header to send in place of the key.

    Raises:
      aiohttp.ClientError, TimeoutError: no answer.
    """
    if self._model is not None:
      body = {**body, "model": self._model}
    async with self._session.post(
      f"{self._url}/chat/completions",
      json=body,
      headers=self._headers(authorization),
    ) as response:
      yield response

  async def models(
    self, timeout_s: float, authorization: str | None = None
  ) -> tuple[int, bytes]:
    """(status, body) of the list of models.

    Raises:
      aiohttp.ClientError, TimeoutError: no answer.
    """
    async with (
      asyncio.timeout(timeout_s),
      self._session.get(
        f"{self._url}/models", headers=self._headers(authorization)
      ) as response,
    ):
      return response.status, await response.read()

  async def complete(
    self, body: Mapping, *, until: float, authorization: str | None = None
  ) -> tuple[int | None, Reply]:
    """(HTTP status, reply) of a request without streaming.

    Args:
      body: the request.
      until: the deadline, a time of the running loop.
      authorization: the header to send in place of the key.
    """
    start = time.monotonic()
    status = None
    try:
      async with (
        asyncio.timeout_at(until),
        self.post(body, authorization) as response,
      ):
        status = response.status
        fields = _read(status, await response.read())
    except TimeoutError:
      fields = {"status": "timeout"}
    except aiohttp.ClientError as error:
      fields = {"status": "error", "error": type(error).__name__}
    return status, Reply(**fields, seconds=time.monotonic() - start)


def _read(status: int, content: bytes) -> dict:
  """The fields of a Reply from a response."""
  if status != 200:
    return {"status": "error", "error": f"HTTP {status}"}
  try:
    payload = json.loads(content)
    choice = payload["choices"][0]
    text = choice["message"].get("content")
    cut = choice["finish_reason"] == "length"
    usage = payload.get("usage") or {}
    tokens = {
      key: usage.get(key) for key in ("prompt_tokens", "completion_tokens")
    }
  except (ValueError, LookupError, TypeError, AttributeError):
    return {"status": "error", "error": "a broken chat completion"}
  if not isinstance(text, str) or not text.strip():
    return {"status": "empty", **tokens}
  return {"status": "truncated" if cut else "ok", "text": text, **tokens}
