"""Straight to POST /v1/chat/completions of an OpenAI-compatible server."""

import urllib.parse
from dataclasses import dataclass, field

import aiohttp

from atlas_jax import retries
from atlas_jax.online.calls.calls import (
  Answer,
  CallFailed,
  Request,
  Transport,
  refused,
  untaken,
)
from atlas_jax.online.calls.chat_json import answer_of, parsed
from atlas_jax.online.calls.model_config import WORDS, ChatModelConfig
from atlas_jax.serving import http

_CHAT = "/chat/completions"


def base_of(url: str) -> str:
  """The address that /chat/completions is added to; /v1 is put after a host.

  One that ends so already is taken as it is written.
  """
  url = url.rstrip("/")
  if url.endswith(_CHAT):
    return url.removesuffix(_CHAT)
  return url if urllib.parse.urlsplit(url).path else url + "/v1"


@dataclass(kw_only=True)
class HttpClient(Transport):
  """Asks over HTTP; connections are kept between requests, cookies are not.

  most_bytes: of an answer. key: a bearer token, or None.
  """

  most_bytes: int
  key: str | None = field(default=None, repr=False)
  _session: aiohttp.ClientSession | None = field(default=None, init=False)

  async def fetch(
    self, method: str, url: str, see: str = "", **how
  ) -> tuple[aiohttp.ClientResponse, bytes]:
    """(a response, its body), by the environment's proxy.

    see: what may mend a request that the server does not like.

    Raises:
      CallFailed: there is none, or it is a refusal.
    """
    if self._session is None:
      sends = {"Authorization": f"Bearer {self.key}"} if self.key else None
      # Limits and deadline are the caller's.
      self._session = http.open_session(headers=sends)
    try:
      async with http.request(
        self._session, method, url, proxy=http.proxy_of(url), **how
      ) as response:
        content = await http.read(response, self.most_bytes)
    except http.Untaken as error:
      raise untaken(error) from error
    except aiohttp.ClientConnectorError as error:
      raise CallFailed(f"no connection: {error}", billed=False) from None
    except (aiohttp.ClientError, OSError) as error:
      text = f"{type(error).__name__}: {error}"
      raise CallFailed(text, again=retries.may_pass(error)) from None
    if response.status // 100 != 2:
      text = content.decode(errors="replace")
      raise refused(response.status, text, response.headers, see=see)
    return response, content

  async def aclose(self) -> None:
    if self._session is not None:
      await self._session.close()
    self._session = None


class UrlCalls(HttpClient):
  """Calls one model of one server."""

  def __init__(self, config: ChatModelConfig, key: str | None):
    super().__init__(most_bytes=config.max_response_bytes, key=key)
    self._config, self._model = config, config.model
    self._base = base_of(config.url)

  async def find_name(self) -> str:
    """The name of the only model that the server tells of.

    Raises:
      CallFailed: it does not answer, or serves several.
    """
    body = await self._json("GET", "/models", None)
    try:
      names = [str(entry["id"]) for entry in body["data"]]
      "".join(names).encode()  # a file must hold them
    except (KeyError, TypeError, RecursionError, UnicodeEncodeError):
      raise CallFailed(f"{self._base}/models lists no models") from None
    if len(names) != 1:
      raise CallFailed(
        f"{self._base} serves {len(names)} models; name one of them with the"
        f" key model: {', '.join(names[:20])}",
        again=False,
      )
    (self._model,) = names
    return self._model

  async def send(self, request: Request) -> Answer:
    """See Transport."""
    body = self._config.extra | request.extra
    body |= {"model": self._model, "messages": request.messages}
    body |= self._config.worded(request.sampling)
    return answer_of(await self._json("POST", _CHAT, body))

  async def _json(self, method: str, path: str, body):
    url = self._base + path
    _, content = await self.fetch(method, url, see=WORDS, json=body)
    return parsed(content)
