"""Agents behind an HTTP endpoint: the prompt in JSON, the answer by a path."""

import dataclasses
import json
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp

from atlas_jax.online.agents.cleaning import decoded
from atlas_jax.online.agents.config import PROMPT, AgentConfig
from atlas_jax.online.agents.credentials import Credentials, masked
from atlas_jax.online.agents.json_replies import answer_in
from atlas_jax.online.calls.calls import (
  Answer,
  CallFailed,
  Request,
  refused,
)
from atlas_jax.online.calls.url_calls import fetched
from atlas_jax.serving import http

_SENT = ("method", "url", "headers", "query", "body")


class HttpAgent:
  """One address; connections are kept between prompts, cookies are not.

  Args:
    target: the address, for a person.
    template: JSON of _SENT, with ${VARIABLE}s and {prompt}s in its strings.
    fixed: of the body, as it stands.
    read: (how it came, of what type, content) -> the answer.
    config: how much of a reply is read.
    where: its key, for errors.
    credentials: the values of the variables.
  """

  repeats = True

  def __init__(
    self,
    target: str,
    template: str,
    fixed: dict,
    read: Callable[[str, str, bytes], Answer],
    config: AgentConfig,
    where: str,
    credentials: Credentials,
  ):
    self.target = target
    self._shown, self._sent = (
      masked(template),
      credentials.fill(template, where),
    )
    self._fixed, self._read = fixed, read
    self._most_bytes = config.max_response_bytes
    self._session: aiohttp.ClientSession | None = None

  def shown(self, prompt: str) -> dict:
    return {k: v for k, v in self._put(self._shown, prompt).items() if v}

  def _put(self, template: str, prompt: str) -> dict:
    """A request with the prompt in its strings, as it is."""
    request = json.loads(template.replace(PROMPT, json.dumps(prompt)[1:-1]))
    return request | {"body": request["body"] | self._fixed}

  async def send(self, request: Request) -> Answer:
    if self._session is None:
      # Slots and deadline are the caller's.
      self._session = http.open_session()
    sent = self._put(self._sent, request.prompt)
    response, content = await fetched(
      self._session,
      sent["method"],
      sent["url"],
      self._most_bytes,
      headers=sent["headers"],
      params=sent["query"],
      json=sent["body"] or None,
    )
    how = f"HTTP {response.status}"
    if response.status // 100 != 2:
      text = content.decode(errors="replace").strip()
      raise refused(response.status, text, response.headers)
    if not content.strip():
      raise CallFailed(f"{how} with an empty body")
    return self._read(how, response.content_type, content)

  async def aclose(self) -> None:
    if self._session is not None:
      await self._session.close()
      self._session = None


def open_http(
  config: AgentConfig, where: str, credentials: Credentials
) -> HttpAgent:
  """The endpoint that `config.http` describes.

  Raises:
    ConfigError: a variable is missing.
  """
  keys = dataclasses.asdict(config.http)
  template = json.dumps({part: keys.pop(part) for part in _SENT})
  paths = {part: path for part, path in keys.items() if path is not None}
  address = urlsplit(masked(config.http.url))

  def read(how: str, kind: str, content: bytes) -> Answer:
    text = decoded(content, how)
    if not paths:
      return Answer(text, None, read=f"{how}, the whole body")
    return answer_in(text, paths, how, f"{len(content)} bytes of {kind}")

  target = f"{address.netloc}{address.path}"
  return HttpAgent(target, template, {}, read, config, where, credentials)
