"""One OpenAI-compatible server, asked once: a proxy's client does not wait.

There is a deadline here in place of retries. All that a server says loses the
proxy's keys first: some servers repeat what they were sent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

import aiohttp

from atlas_jax import scrubbing
from atlas_jax.online.calls.calls import Answer, CallFailed, refused
from atlas_jax.online.calls.chat_json import answer_of, parsed
from atlas_jax.online.calls.url_calls import base_of
from atlas_jax.online.production import errors
from atlas_jax.online.production.config import Keys, ProxyConfig
from atlas_jax.online.production.once import Complaints
from atlas_jax.serving import http

_LARGE = 64 << 10  # such a text is searched beside the event loop
_KEPT_S = 1.0  # a state: no server is asked more often, whoever asks


async def _hidden(scrub, content: bytes) -> bytes:
  """What a server sent, without secrets."""
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

  Where its config forwards a client's Authorization header, that is sent in
  place of the key, and hidden from whoever else reads an answer.
  """

  def __init__(
    self,
    session: aiohttp.ClientSession,
    name: str,
    config: ProxyConfig,
    keys: Keys,
  ):
    self._session = session
    self._config, self._key = getattr(config, name), getattr(keys, name)
    self._url = base_of(self._config.url)
    self._forwards = getattr(self._config, "forward_authorization", False)
    self._most = config.max_response_bytes
    self._health_timeout_s = config.health_timeout_s
    # Of a request whose whole has a deadline.
    self._quick = aiohttp.ClientTimeout(sock_connect=config.connect_timeout_s)
    secrets = [key for key in vars(keys).values() if key]
    # Of any length in errors; in an answer a short one is honest text.
    self.hide = scrubbing.scrubber({}, *secrets)
    self._hide_in_answer = scrubbing.answer_scrubber({}, *secrets)
    self._has_secrets = bool(secrets)
    where = f"config.{name}"
    self.complain = Complaints(
      f"the {name}",
      wording=f"{where}.max_tokens_key, .send_temperature and .send_seed",
      key=f"{where}.api_key_env",
      address=f"{where}.url and {where}.model",
    )
    self._state, self._asked_at = "down", -_KEPT_S
    self._asking = asyncio.Lock()

  def _headers(self, client: str | None) -> dict[str, str]:
    sent = f"Bearer {self._key}" if self._key else None
    # To a client without a key the upstream says so.
    sent = client if self._forwards else sent
    return {} if sent is None else {"Authorization": sent}

  def post(
    self, body: Mapping, client: str | None, **options
  ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """The response to a chat completion, with its content still to come.

    Args:
      body: the request.
      client: the Authorization header of the client.
      **options: of http.request.

    Raises:
      aiohttp.ClientError, TimeoutError: no answer.
    """
    if self._config.model is not None:
      body = {**body, "model": self._config.model}
    url, headers = self._url + "/chat/completions", self._headers(client)
    return http.request(
      self._session, "POST", url, json=body, headers=headers, **options
    )

  async def _without_keys(self, content: bytes, status: int = 200) -> bytes:
    if not self._has_secrets:
      return content
    hide = self._hide_in_answer if status == 200 else self.hide
    return await _hidden(hide, content)

  async def read(self, response: aiohttp.ClientResponse) -> bytes:
    """The whole body of an answer.

    Raises:
      aiohttp.ClientError, TimeoutError: it broke off, or is too large.
    """
    content = await http.read(response, self._most)
    return await self._without_keys(content, response.status)

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
        yield await self._without_keys(bytes(rest))
        rest.clear()
      rest += piece[end:]
      if len(rest) > self._most:
        raise http.TooLarge(self._most)
    if rest:
      yield await self._without_keys(bytes(rest))

  async def models(
    self, timeout_s: float, client: str | None = None
  ) -> tuple[int, bytes]:
    """(status, body) of the list of models.

    Raises:
      aiohttp.ClientError, TimeoutError: no answer.
    """
    url, headers = f"{self._url}/models", self._headers(client)
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

  async def state(self) -> str:
    """up, down, or HTTP 401, 404, ... as the question for the models brings.

    Such a status says that a key or an address is wrong, or that the server
    has no list.
    """
    async with self._asking:
      if time.monotonic() >= self._asked_at + _KEPT_S:
        self._state = await self._ask_state()
        self._asked_at = time.monotonic()
    return self._state

  async def _ask_state(self) -> str:
    try:
      status, _ = await self.models(self._health_timeout_s)
    except (aiohttp.ClientError, TimeoutError):
      return "down"
    # A client's own key is not at hand here.
    if status < 400 or (self._forwards and status in (401, 403)):
      return "up"
    return "down" if status >= 500 else f"HTTP {status}"

  async def send(self, body: Mapping, client: str | None) -> Answer:
    """The answer to a request of ours; the caller has a deadline.

    Args:
      body: its max_tokens, temperature and seed are sent as the config says.
      client: the Authorization header of the client.

    Raises:
      CallFailed: there is none.
    """
    body = self._config.worded(body)
    try:
      async with self.post(body, client, timeout=self._quick) as response:
        content = await self.read(response)
    except aiohttp.ClientError as error:
      status = "timeout" if isinstance(error, TimeoutError) else "error"
      raise CallFailed(type(error).__name__, status=status) from error
    if self._forwards and client is not None:
      key = client.partition(" ")[2]
      content = await _hidden(scrubbing.answer_scrubber({}, key), content)
    if response.status != 200:
      words = content.decode(errors="replace")
      raise refused(response.status, words, response.headers)
    return answer_of(parsed(content))
