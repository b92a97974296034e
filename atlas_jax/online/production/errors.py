"""Errors as OpenAI's clients read them: the proxy's own, and an upstream's."""

from collections.abc import Mapping

import aiohttp
from aiohttp import web

from atlas_jax.errors import AtlasError
from atlas_jax.online.calls import chat_json
from atlas_jax.online.calls.calls import CallFailed
from atlas_jax.serving import http

_LONGEST = 2000  # characters of an upstream's own words
# Statuses that a chat client knows; any other of an upstream becomes 502.
_KNOWN = (
  *(200, 400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 422, 424, 429),
  *(500, 501, 502, 503, 504, 529),
)
JSON, EVENTS = "application/json", "text/event-stream"
WRONG_KEY = (401, "the API key is missing or wrong", "invalid_api_key")
FULL = (429, "the proxy is full", "rate_limit_exceeded", {"Retry-After": "1"})


class Strange(http.Untaken):
  """An answer that no chat client knows; the text is for the client."""


class Refused(AtlasError):
  """The proxy itself refuses a request; the arguments are those of `error`."""


def error(
  status: int,
  message: str,
  kind: str = "invalid_request_error",
  headers: Mapping[str, str] | None = None,
) -> web.Response:
  """An error response of ours."""
  body = {"message": message, "type": kind, "param": None, "code": None}
  return web.json_response({"error": body}, status=status, headers=headers)


def no_answer(
  reason: Exception, headers: Mapping[str, str] | None = None
) -> web.Response:
  """502, or 504 for a timeout; it names no address."""
  status, what = 502, "cannot be reached"
  match reason:
    case TimeoutError():
      status, what = 504, "did not answer in time"
    case http.Redirected():
      what = "answered with a redirect, which is not followed"
    case http.TooLarge() | Strange():
      what = f"cannot be understood: {reason}"
  return error(status, f"the upstream {what}", "upstream_error", headers)


def check_known(response: aiohttp.ClientResponse, *kinds: str) -> None:
  """Raises Strange where no client knows an upstream's status or type.

  kinds: the content types that an answer may have.
  """
  if response.status not in _KNOWN:
    raise Strange(f"HTTP {response.status}")
  if response.status == 200 and response.content_type not in kinds:
    raise Strange(f"it is not {' or '.join(kinds)}")


def passed_on(
  status: int, content: bytes, headers: Mapping[str, str] | None = None
) -> web.Response:
  """A whole response of the upstream; its errors get the form of OpenAI's."""
  try:
    formed = status < 400 or isinstance(
      chat_json.parsed(content)["error"], dict
    )
  except (CallFailed, LookupError, TypeError):
    formed = False
  if formed:
    return web.Response(
      body=content, status=status, headers=headers, content_type=JSON
    )
  text = content.decode("utf-8-sig", errors="replace").strip()
  # An HTML page is not for a client, and may be long.
  words = text[:_LONGEST] if text and text[0] != "<" else f"HTTP {status}"
  return error(status, words, "upstream_error", headers)
