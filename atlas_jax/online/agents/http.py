"""Agents behind an HTTP endpoint: the prompt in JSON, the answer by a path."""

import json
from urllib.parse import urlsplit

import aiohttp

from atlas_jax import retries
from atlas_jax.online.agents import paths
from atlas_jax.online.agents.asking import (
  Attempt,
  answer_at,
  answered,
  check_failure,
  failed,
)
from atlas_jax.online.agents.config import PROMPT, AgentConfig
from atlas_jax.online.agents.credentials import (
  Credentials,
  each_string,
  masked,
)
from atlas_jax.online.calls.calls import refused
from atlas_jax.serving import http

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_PATHS = ("answer", "failure_path", "finish_reason", *_COUNTS)


class HttpAgent:
  """One URL; connections are kept between prompts.

  Raises:
    ConfigError: a path is not valid, or a variable is missing.
  """

  repeats = True

  def __init__(self, config: AgentConfig, where: str, credentials: Credentials):
    keys = self._config = config.http
    self._url = credentials.fill(keys.url, f"{where}.url")
    self._headers, self._query = (
      {
        name: credentials.fill(value, f"{where}.{part}[{name!r}]")
        for name, value in getattr(keys, part).items()
      }
      for part in ("headers", "query")
    )
    self._body = credentials.fill_all(keys.body, f"{where}.body")
    self._paths = {
      name: paths.parse(getattr(keys, name), f"{where}.{name}")
      for name in _PATHS
      if getattr(keys, name) is not None
    }
    self._most_bytes = config.max_response_bytes
    self._session = None
    parts = urlsplit(masked(keys.url))
    self.target = f"{parts.netloc}{parts.path}"

  def shown(self, prompt: str) -> dict:
    keys = self._config
    shown = {"method": keys.method, "url": masked(keys.url)}
    if keys.headers:
      shown["headers"] = each_string(keys.headers, masked)
    for part in ("query", "body"):
      if template := getattr(keys, part):
        shown[part] = put(each_string(template, masked), prompt)
    return shown

  async def send(self, prompt: str) -> Attempt:
    if self._session is None:
      # Slots and deadline are the caller's.
      self._session = http.open_session(headers=self._headers)
    body = put(self._body, prompt) if self._body else None
    try:
      async with http.request(
        self._session,
        self._config.method,
        self._url,
        params=put(self._query, prompt),
        json=body,
      ) as response:
        content = await http.read(response, self._most_bytes)
    except (aiohttp.ClientError, OSError) as error:
      again = retries.may_pass(error)
      return failed(f"{type(error).__name__}: {error}", again=again)
    if response.status // 100 != 2:
      text = content.decode("utf-8", "replace").strip()
      raise refused(response.status, text, response.headers)
    return self._read(response, content)

  def _read(self, response, content: bytes) -> Attempt:
    status = f"HTTP {response.status}"
    if not content.strip():
      return failed(f"{status} with an empty body", again=True)
    if not self._paths:
      return _whole(content, status)
    try:
      whole = content.decode("utf-8-sig")
      value = json.loads(whole)
    except (ValueError, RecursionError) as error:
      return failed(
        f"{status}, {len(content)} bytes of {response.content_type} that are"
        f" not valid JSON ({type(error).__name__})",
        again=True,
      )
    check_failure(value, self._paths.get("failure_path"), status)
    if "answer" in self._paths:
      read = f"{status}, JSON, answer at {self._config.answer}"
      text = answer_at(value, self._paths["answer"], status, read)
    else:
      text, read = whole, f"{status}, the whole body"
    reason = _optional(value, self._paths, "finish_reason")
    return answered(
      text,
      read,
      finish_reason=None if reason is None else str(reason),
      usage={name: _optional(value, self._paths, name) for name in _COUNTS},
      empty_is_transient=True,
    )

  async def aclose(self) -> None:
    if self._session is not None:
      await self._session.close()
      self._session = None


def put(template, prompt: str):
  """A JSON template with the prompt for each {prompt} in its string values.

  It is put in as a value, so whatever stands in it means nothing.
  """
  return each_string(template, lambda text: text.replace(PROMPT, prompt))


def _whole(content: bytes, status: str) -> Attempt:
  try:
    return answered(content.decode(), f"{status}, the whole body")
  except UnicodeDecodeError:
    return failed(f"{status}, {len(content)} bytes that are not UTF-8")


def _optional(value, steps_of: dict, name: str):
  """What stands at an optional path; None where it ends before."""
  if name not in steps_of:
    return None
  try:
    return paths.follow(value, steps_of[name])
  except paths.NoSuchPath:
    return None
