"""Agents behind an HTTP endpoint: the prompt in JSON, the answer by a path."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from atlas_jax.online.agents.config import PROMPT, AgentConfig
from atlas_jax.online.agents.json_replies import answer_in
from atlas_jax.online.calls.calls import Answer, CallFailed, Request
from atlas_jax.online.calls.cleaning import decoded
from atlas_jax.online.calls.url_calls import HttpClient
from atlas_jax.online.calls.variables import Credentials

_SENT = ("method", "url", "headers", "query", "body")


@dataclass(kw_only=True)
class HttpAgent(HttpClient):
  """One address.

  sent: JSON of _SENT with {prompt}s in its strings. fixed: of the body, as it
  stands. read makes an answer of how a reply came, its type, and its content.
  """

  target: str
  sent: str
  fixed: dict
  read: Callable[[str, str, bytes], Answer]

  async def send(self, request: Request) -> Answer:
    prompt = json.dumps(request.prompt)[1:-1]
    sent = json.loads(self.sent.replace(PROMPT, prompt))
    response, content = await self.fetch(
      sent["method"],
      sent["url"],
      headers=sent["headers"],
      params=sent["query"],
      json=sent["body"] | self.fixed or None,
    )
    how = f"HTTP {response.status}"
    if not content.strip():
      raise CallFailed(f"{how} with an empty body")
    return self.read(how, response.content_type, content)


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
  address = urlsplit(config.http.url)

  def read(how: str, kind: str, content: bytes) -> Answer:
    text = decoded(content, how)
    if not paths:
      return Answer(text, None, read=f"{how}, the whole body")
    return answer_in(text, paths, how, f"{len(content)} bytes of {kind}")

  return HttpAgent(
    target=f"{address.netloc}{address.path}",
    sent=credentials.fill(template, where),
    fixed={},
    read=read,
    most_bytes=config.max_response_bytes,
  )
