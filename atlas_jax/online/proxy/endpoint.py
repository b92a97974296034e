"""One OpenAI-compatible server, asked once: a proxy's client has no patience.

The models of an optimisation (online/models.py) retry, keep a ledger and a
record; here there is a deadline instead.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

import aiohttp

from atlas_jax.online.chat_json import answer_of, judged, parsed
from atlas_jax.online.proxy import errors
from atlas_jax.online.proxy.config import Keys, ProxyConfig
from atlas_jax.online.proxy.hiding import Hiding
from atlas_jax.online.replies import Reply
from atlas_jax.online.retrying import CallFailed
from atlas_jax.online.url_calls import base_of
from atlas_jax.serving import http

log = logging.getLogger(__name__)


class Endpoint:
  """One server.

  Args:
    session: of http.open_session.
    name: upstream or teacher, as in the config.
    config: the address, and how it is asked. Where a model is named, that
      takes the place of the one in a body.
    keys: one of that name is its bearer token.
    hiding: takes all of them out of all that the server says.
  """

  def __init__(
    self,
    session: aiohttp.ClientSession,
    name: str,
    config: ProxyConfig,
    keys: Keys,
    hiding: Hiding,
  ):
    self.hiding = hiding
    self._session = session
    self._name = name
    self._config = getattr(config, name)
    self._url = base_of(self._config.url)
    self._key = getattr(keys, name)
    self._most = config.max_response_bytes
    self._told: set[int | type] = set()

  def _headers(self, authorization: str | None) -> dict[str, str]:
    if authorization is None and self._key:
      authorization = f"Bearer {self._key}"
    return {} if authorization is None else {"Authorization": authorization}

  def post(
    self, body: Mapping, authorization: str | None = None
  ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """The response to a chat completion, with its content still to come.

    Args:
      body: the request.
      authorization: the header to send in place of the key.

    Raises:
      aiohttp.ClientError, TimeoutError: no answer.
    """
    if self._config.model is not None:
      body = {**body, "model": self._config.model}
    url, headers = self._url + "/chat/completions", self._headers(authorization)
    return http.request(self._session, "POST", url, json=body, headers=headers)

  async def read(self, response: aiohttp.ClientResponse) -> bytes:
    """The whole body of an answer, without keys.

    Raises:
      aiohttp.ClientError, TimeoutError: it broke off, or is too large.
    """
    content = await http.read(response, self._most)
    return await self.hiding.in_body(content, response.status)

  async def lines(
    self, response: aiohttp.ClientResponse
  ) -> AsyncIterator[bytes]:
    """A stream as it comes, in whole lines: a secret may stand in two pieces.

    Raises:
      aiohttp.ClientError, TimeoutError: it broke off, or a line has no end.
    """
    rest = bytearray()
    async for piece in response.content.iter_any():
      end = 1 + max(piece.rfind(b"\n"), piece.rfind(b"\r"))
      rest += piece[:end]
      if end:
        yield await self.hiding.in_body(bytes(rest))
        rest.clear()
      rest += piece[end:]
      if len(rest) > self._most:
        raise http.TooLarge(self._most)
    if rest:
      yield await self.hiding.in_body(bytes(rest))

  async def models(
    self, timeout_s: float, authorization: str | None = None
  ) -> tuple[int, bytes]:
    """(status, body) of the list of models.

    Raises:
      aiohttp.ClientError, TimeoutError: no answer.
    """
    url, headers = f"{self._url}/models", self._headers(authorization)
    try:
      async with (
        asyncio.timeout(timeout_s),
        http.request(self._session, "GET", url, headers=headers) as response,
      ):
        errors.check_known(response, errors.JSON)
        return response.status, await self.read(response)
    except http.Redirected as error:
      self.log_once(error)
      raise

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
        content = await self.read(response)
        if authorization is not None:  # of a client: a key that is not ours
          hide = Hiding(Keys(client=authorization.partition(" ")[2]))
          content = await hide.in_body(content, status)
        fields = _read(status, content)
        self._tell(status)
    except TimeoutError:
      fields = {"status": "timeout"}
    except aiohttp.ClientError as error:
      self.log_once(error)
      fields = {"status": "error", "error": type(error).__name__}
    return status, Reply(**fields, seconds=time.monotonic() - start)

  def _worded(self, body: Mapping) -> dict:
    body = dict(body)
    if "max_tokens" in body:
      body[self._config.max_tokens_key] = body.pop("max_tokens")
    if not self._config.send_temperature:
      body.pop("temperature")
    return body

  def log_once(self, reason: Exception) -> None:
    """Logs the first redirect, with its two addresses."""
    kind = type(reason)
    if kind is http.Redirected and kind not in self._told:
      self._told.add(kind)
      log.warning("the %s: %s (told once)", self._name, reason)

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
    how = "empty" if why.declined else why.status
    return {"status": how, "error": str(why), **tokens}
  return {"status": how, "text": answer.text or "", **tokens}
