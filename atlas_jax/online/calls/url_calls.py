"""Straight to POST /v1/chat/completions of an OpenAI-compatible server."""

import asyncio
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import aiohttp

from atlas_jax.online.calls.calls import (
  Answer,
  CallFailed,
  Request,
  refused,
  untaken,
)
from atlas_jax.online.calls.chat_json import answer_of, is_unicode, parsed
from atlas_jax.serving import http

_NAME_TIMEOUT_S = 30.0


MaxTokensKey = Literal["max_tokens", "max_completion_tokens"]


@dataclass(frozen=True)
class Wording:
  """How a server is told the length and the sampling of an answer."""

  # How a request says its limit; newer models want max_completion_tokens.
  max_tokens_key: MaxTokensKey = "max_tokens"
  send_temperature: bool = True  # some models refuse one
  send_seed: bool = True  # some servers refuse one

  def worded(self, body: Mapping) -> dict:
    """A body with max_tokens, temperature and seed, as the server takes it."""
    body = dict(body)
    if "max_tokens" in body:
      body[self.max_tokens_key] = body.pop("max_tokens")
    if not self.send_temperature:
      body.pop("temperature", None)
    if not self.send_seed:
      body.pop("seed", None)
    return body


def base_of(url: str) -> str:
  """The address that /chat/completions is added to."""
  url = url.rstrip("/").removesuffix("/chat/completions")
  return url if urllib.parse.urlsplit(url).path else url + "/v1"


_WORDING = Wording()
_WORDS = [field.name for field in fields(Wording)]


class UrlCalls:
  """Calls one model of one server.

  Args:
    url: see base_of.
    model: None: the only one that the server tells of.
    key: a bearer token or None.
    extra: sampling parameters that go with every call.
    most_bytes: of one answer.
    wording: of the server.
  """

  prices = None

  def __init__(
    self,
    url: str,
    *,
    model: str | None,
    key: str | None,
    extra: dict,
    most_bytes: int,
    wording: Wording = _WORDING,
  ):
    self._base = base_of(url)
    self._model = model
    self._extra = extra
    self._most_bytes = most_bytes
    self._wording = wording
    self._headers = {"Authorization": f"Bearer {key}"} if key else {}
    self._session: aiohttp.ClientSession | None = None
    self._naming = asyncio.Lock()

  async def aclose(self) -> None:
    if self._session is not None:
      await self._session.close()
    self._session = None

  async def name(self) -> str:
    """The model's name, asked from the server once.

    Raises:
      CallFailed: it does not answer, or serves several.
    """
    async with self._naming:
      if self._model is None:
        self._model = await self._ask_name()
      return self._model

  async def _ask_name(self) -> str:
    try:
      async with asyncio.timeout(_NAME_TIMEOUT_S):
        body = await self._json("GET", "/models", None)
    except TimeoutError:
      raise CallFailed(
        f"no answer in {_NAME_TIMEOUT_S:g} s", status="timeout"
      ) from None
    try:
      names = [str(entry["id"]) for entry in body["data"]]
    except (KeyError, TypeError, RecursionError):
      raise CallFailed(f"{self._base}/models lists no models") from None
    if not all(map(is_unicode, names)):
      raise CallFailed(f"{self._base}/models is not valid Unicode")
    if len(names) != 1:
      raise CallFailed(
        f"{self._base} serves {len(names)} models; name one of them with the"
        f" key model: {', '.join(names[:20])}",
        again=False,
      )
    return names[0]

  async def send(self, request: Request) -> Answer:
    """One attempt, without a deadline of its own.

    Raises:
      CallFailed: it brought no answer.
    """
    body = (
      self._extra
      | request.extra
      | {
        "model": await self.name(),
        "messages": [dict(m) for m in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
      }
    )
    if request.seed is not None:
      body["seed"] = request.seed
    body = self._wording.worded(body)
    return answer_of(await self._json("POST", "/chat/completions", body))

  async def _json(self, method: str, path: str, body):
    if self._session is None:
      # The limits say how many requests are under way.
      self._session = http.open_session(headers=self._headers)
    try:
      async with http.request(
        self._session, method, self._base + path, json=body
      ) as response:
        content = await http.read(response, self._most_bytes)
        code, headers = response.status, response.headers
    except http.Untaken as error:
      raise untaken(error) from None
    except aiohttp.ClientConnectorError as error:
      raise CallFailed(f"no connection: {error}", billed=False) from None
    except (aiohttp.ClientError, OSError) as error:
      raise CallFailed(f"{type(error).__name__}: {error}") from None
    if code != 200:
      text = content.decode(errors="replace")
      if code in (400, 422):
        text = f"see {', '.join(_WORDS)}; it said: {text}"
      raise refused(code, text, headers)
    return parsed(content)
