"""One OpenAI-compatible server, asked once: a proxy's client does not wait.

The models of an optimisation (online/models.py) retry, keep a ledger and a
record; here there is a deadline instead. All that a server says loses the
proxy's keys first: some servers repeat what they were sent.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

import aiohttp

from atlas_jax import scrubbing
from atlas_jax.online.calls.calls import Answer, CallFailed, refused
from atlas_jax.online.calls.chat_json import answer_of, parsed
from atlas_jax.online.calls.url_calls import base_of
from atlas_jax.online.production.once import Complaints
from atlas_jax.online.production.proxy import errors
from atlas_jax.online.production.proxy.config import Keys, ProxyConfig
from atlas_jax.serving import http

_LARGE = 64 << 10  # such a text is searched beside the event loop


class Hiding:
  """Takes keys out of what servers say: whole answers, or whole lines."""

  def __init__(self, *secrets: str | None):
    # Of any length in errors; in an answer a short one is honest text.
    self.in_text = scrubbing.scrubber({}, *secrets)
    self._in_answer = scrubbing.answer_scrubber({}, *secrets)
    self._nothing = not any(secrets)

  async def in_body(self, content: bytes, status: int = 200) -> bytes:
    """What a server sent with this status, or a line of it."""
    if self._nothing:
      return content
    scrub = self._in_answer if status == 200 else self.in_text
    text = content.decode(errors="surrogateescape")
    if len(text) > _LARGE:
      text = await asyncio.to_thread(scrub, text)
    else:
      text = scrub(text)
    return text.encode(errors="surrogateescape")


class Endpoint:
  """One server.

  Args:
    session: of http.open_session.
    name: upstream or teacher, as in the config.
    config: the address, and how it is asked. Where a model is named, that
      takes the place of the one in a body.
    keys: one of that name is its bearer token; none of them is passed on.
  """

  def __init__(
    self,
    session: aiohttp.ClientSession,
    name: str,
    config: ProxyConfig,
    keys: Keys,
  ):
    self._session = session
    self._config = getattr(config, name)
    self._url = base_of(self._config.url)
    self._key = getattr(keys, name)
    self._most = config.max_response_bytes
    # Of a request whose whole has a deadline.
    self._quick = aiohttp.ClientTimeout(sock_connect=config.connect_timeout_s)
    self.hiding = Hiding(*vars(keys).values())
    where = f"config.{name}"
    self.complain = Complaints(
      f"the {name}",
      wording=f"{where}.max_tokens_key, .send_temperature and .send_seed",
      key=f"{where}.api_key_env",
      address=f"{where}.url and {where}.model",
    )

  def _headers(self, authorization: str | None) -> dict[str, str]:
    if authorization is None and self._key:
      authorization = f"Bearer {self._key}"
    return {} if authorization is None else {"Authorization": authorization}

  def post(
    self, body: Mapping, authorization: str | None = None, **options
  ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """The response to a chat completion, with its content still to come.

    Args:
      body: the request.
      authorization: the header to send in place of the key.
      **options: of http.request.

    Raises:
      aiohttp.ClientError, TimeoutError: no answer.
    """
    if self._config.model is not None:
      body = {**body, "model": self._config.model}
    url, headers = self._url + "/chat/completions", self._headers(authorization)
    return http.request(
      self._session, "POST", url, json=body, headers=headers, **options
    )

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
    while piece := await response.content.readany():
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
      self.complain(error)
      raise

  async def send(
    self, body: Mapping, authorization: str | None = None
  ) -> Answer:
    """The answer to a request of ours; the caller has a deadline.

    Args:
      body: the request; its max_tokens, temperature and seed are sent as the
        config says.
      authorization: the header to send in place of the key.

    Raises:
      CallFailed: there is none.
    """
    try:
      async with self.post(
        self._config.worded(body), authorization, timeout=self._quick
      ) as response:
        content = await self.read(response)
    except aiohttp.ClientError as error:
      status = "timeout" if isinstance(error, TimeoutError) else "error"
      raise CallFailed(type(error).__name__, status=status) from error
    if authorization is not None:  # of a client: a key that is not ours
      own = Hiding(authorization.partition(" ")[2])
      content = await own.in_body(content, response.status)
    if response.status != 200:
      words = content.decode(errors="replace")
      raise refused(response.status, words, response.headers)
    return answer_of(parsed(content))
