"""One OpenAI-compatible server, asked once: a proxy's client has no patience.

The models of an optimisation (online/models.py) retry, keep a ledger and a
record; here there is a deadline instead.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping

import aiohttp

from atlas_jax.online.chat_json import answer_of, judged, parsed
from atlas_jax.online.proxy.config import TeacherConfig, UpstreamConfig
from atlas_jax.online.replies import Reply
from atlas_jax.online.retrying import CallFailed
from atlas_jax.online.url_calls import base_of

log = logging.getLogger(__name__)

# Below what servers commonly keep (uvicorn: 5 s), so that a request does not
# meet a connection that is being closed.
_KEEP_ALIVE_S = 2.0


def open_session(
  connect_timeout_s: float, silence_timeout_s: float
) -> aiohttp.ClientSession:
  """The connections of a proxy; close it."""
  return aiohttp.ClientSession(
    # What a server sets for one client is not for the next one.
    cookie_jar=aiohttp.DummyCookieJar(),
    connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
    timeout=aiohttp.ClientTimeout(
      total=None,
      sock_connect=connect_timeout_s,
      sock_read=silence_timeout_s,
    ),
  )


class Endpoint:
  """One server.

  Args:
    session: from open_session.
    name: upstream or teacher, as in the config.
    config: its address, and how it is asked. Where a model is named, that
      takes the place of the one in a body.
    key: its bearer token; None: none.
  """

  def __init__(
    self,
    session: aiohttp.ClientSession,
    name: str,
    config: UpstreamConfig | TeacherConfig,
    *,
    key: str | None,
  ):
    self._session = session
    self._name = name
    self._url = base_of(config.url)
    self._config = config
    self._key = key
    self._told: set[int] = set()

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
    if self._config.model is not None:
      body = {**body, "model": self._config.model}
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
    """(HTTP status, reply) of a request of ours, without streaming.

    Args:
      body: the request; its max_tokens and temperature are sent as the config
        says.
      until: the deadline, a time of the running loop.
      authorization: the header to send in place of the key.
    """
    start = time.monotonic()
    status = None
    try:
      async with (
        asyncio.timeout_at(until),
        self.post(self._worded(body), authorization) as response,
      ):
        status = response.status
        fields = _read(status, await response.read())
        self._tell(status)
    except TimeoutError:
      fields = {"status": "timeout"}
    except aiohttp.ClientError as error:
      fields = {"status": "error", "error": type(error).__name__}
    return status, Reply(**fields, seconds=time.monotonic() - start)

  def _worded(self, body: Mapping) -> dict:
    body = dict(body)
    if "max_tokens" in body:
      body[self._config.max_tokens_key] = body.pop("max_tokens")
    if not self._config.send_temperature:
      body.pop("temperature")
    return body

  def _tell(self, status: int) -> None:
    """Logs the first refusal of each kind; its words may be of a question."""
    if status == 200 or status in self._told:
      return
    self._told.add(status)
    where = f"config.{self._name}"
    log.warning(
      "the %s answers a request of the proxy with HTTP %d (told once)%s",
      self._name,
      status,
      f"; see {where}.model, {where}.max_tokens_key, {where}.send_temperature"
      if status in (400, 404, 422)
      else "",
    )


def _read(status: int, content: bytes) -> dict:
  """The fields of a Reply from a response."""
  if status != 200:
    return {"status": "error", "error": f"HTTP {status}"}
  tokens = {}
  try:
    answer = answer_of(parsed(content))
    tokens = {
      "prompt_tokens": answer.prompt_tokens,
      "completion_tokens": answer.completion_tokens,
    }
    # Nobody asks again to see whether it is the server that cuts.
    how = judged(answer, 0, accept_cut=True)
  except CallFailed as why:
    # One who declines a question is well, and has said nothing.
    how = why.status if why.again else "empty"
    return {"status": how, "error": str(why), **tokens}
  return {"status": how, "text": answer.text or "", **tokens}
