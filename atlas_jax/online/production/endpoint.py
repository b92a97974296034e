"""One OpenAI-compatible server, asked once: a proxy's client does not wait.

There is a deadline here in place of retries. All that a server says loses the
proxy's keys first: some servers repeat what they were sent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

import aiohttp

from atlas_jax import scrubbing
from atlas_jax.online.calls.calls import Answer, CallFailed, Reply, refused
from atlas_jax.online.calls.chat_json import answer_of, judge, parsed
from atlas_jax.online.calls.url_calls import base_of
from atlas_jax.online.production import errors
from atlas_jax.online.production.config import Keys, ProxyConfig
from atlas_jax.online.production.once import Complaints
from atlas_jax.serving import http

_LARGE = 64 << 10  # such a text is searched beside the event loop
_KEPT_S = 1.0  # a state: no server is asked more often, whoever asks


async def _hidden(hide: Callable[[str], str], content: bytes) -> bytes:
  if hide is str:  # there is no key
    return content
  text = content.decode(errors="surrogateescape")
  large = len(text) > _LARGE
  text = await asyncio.to_thread(hide, text) if large else hide(text)
  return text.encode(errors="surrogateescape")


class Endpoint:
  """One server, the upstream or the teacher.

  Its key is sent, or a client's Authorization header where the config forwards
  that. A model that the config names takes the place of the one in a body.

  Raises, in each method:
    aiohttp.ClientError, TimeoutError: no answer, or one that broke off.
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
    self._proxy = http.proxy_of(self._url)
    self._forwards = getattr(self._config, "forward_authorization", False)
    self._most = config.max_response_bytes
    self._models_timeout_s = config.connect_timeout_s
    # Of any length in errors; in an answer a short one is honest text.
    self.hide = self._hide_in_answer = str
    if secrets := [key for key in vars(keys).values() if key]:
      self.hide = scrubbing.scrubber({}, *secrets)
      self._hide_in_answer = scrubbing.answer_scrubber({}, *secrets)
    where = f"config.{name}"
    self.complain = Complaints(
      f"the {name}",
      wording=f"{where}.max_tokens_key, .send_temperature and .send_seed",
      key=f"{where}.api_key_env",
      address=f"{where}.url and {where}.model",
    )
    self._state, self._asked_at = "down", -_KEPT_S
    self._asking = asyncio.Lock()

  def _request(self, method: str, path: str, client: str | None, **content):
    sent = f"Bearer {self._key}" if self._key else None
    # To a client without a key the upstream says so.
    sent = client if self._forwards else sent
    headers = {} if sent is None else {"Authorization": sent}
    content |= {"headers": headers, "proxy": self._proxy}
    return http.request(self._session, method, self._url + path, **content)

  def post(
    self, body: Mapping, client: str | None
  ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """The response to a chat completion, with its content still to come.

    client: the Authorization header of the client.
    """
    if self._config.model is not None:
      body = {**body, "model": self._config.model}
    return self._request("POST", "/chat/completions", client, json=body)

  async def read(self, response: aiohttp.ClientResponse) -> bytes:
    """The whole body of an answer."""
    content = await http.read(response, self._most)
    good = response.status == 200
    return await _hidden(self._hide_in_answer if good else self.hide, content)

  async def lines(
    self, response: aiohttp.ClientResponse
  ) -> AsyncIterator[bytes]:
    """A stream in whole lines as they come: a secret may be in two pieces."""
    rest = bytearray()
    while piece := await response.content.readany():
      end = 1 + max(piece.rfind(b"\n"), piece.rfind(b"\r"))
      rest += piece[:end]
      if end:
        yield await _hidden(self._hide_in_answer, bytes(rest))
        rest.clear()
      rest += piece[end:]
      if len(rest) > self._most:
        raise http.TooLarge(self._most)
    if rest:
      yield await _hidden(self._hide_in_answer, bytes(rest))

  async def models(self, client: str | None = None) -> tuple[int, bytes]:
    """(status, body) of the list of models."""
    try:
      async with (
        asyncio.timeout(self._models_timeout_s),
        self._request("GET", "/models", client) as response,
      ):
        errors.check_known(response, errors.JSON)
        return response.status, await self.read(response)
    except http.Redirected as error:
      self.complain(error)
      raise

  async def state(self) -> str:
    """up, down, or the status of a question for the models, as "HTTP 404".

    It says that a key or an address is wrong, or that there is no such list.
    """
    async with self._asking:
      if time.monotonic() < self._asked_at + _KEPT_S:
        return self._state
      try:
        status, _ = await self.models()
      except (aiohttp.ClientError, TimeoutError):
        status = 500
      # A client's own key is not at hand here.
      well = status < 400 or (self._forwards and status in (401, 403))
      self._state = "up" if well else f"HTTP {status}"
      self._state = "down" if status >= 500 else self._state
      self._asked_at = time.monotonic()
      return self._state

  async def ask(self, body: Mapping, client: str | None) -> Reply:
    """What one attempt at a request of ours brings; a cut answer is one too.

    Args:
      body: its max_tokens, temperature and seed are sent as the config says.
      client: the Authorization header of the client.
    """
    tokens = None
    try:
      answer = await self._send(self._config.worded(body), client)
      tokens = answer.completion_tokens
      status = judge(answer, 0, accept_cut=True)
      return Reply(status, answer.text or "", completion_tokens=tokens)
    except CallFailed as failed:
      self.complain(failed)
      # A model that declines is well, and has said nothing.
      status = "empty" if failed.declined else failed.status
      return Reply(status, completion_tokens=tokens, failed=failed)

  async def _send(self, body: Mapping, client: str | None) -> Answer:
    try:
      async with self.post(body, client) as response:
        content = await self.read(response)
    except aiohttp.ClientError as error:
      status = "timeout" if isinstance(error, TimeoutError) else "error"
      raise CallFailed(type(error).__name__, status=status) from error
    if self._forwards and client:
      hide = scrubbing.answer_scrubber({}, client.partition(" ")[2])
      content = await _hidden(hide, content)
    if response.status != 200:
      words = content.decode(errors="replace")
      raise refused(response.status, words, response.headers)
    return answer_of(parsed(content))
