"""Errors as OpenAI's clients read them."""

import json
from collections.abc import Callable, Mapping

from aiohttp import web

_LONGEST = 2000  # characters of an upstream's own words
_RETRY_AFTER_S = "1"  # for those who come while the proxy is full


class Refused(Exception):
  """The proxy itself says no; `response` is what the client is told."""

  def __init__(self, response: web.Response):
    super().__init__(response.status)
    self.response = response


def error(status: int, message: str, kind: str) -> web.Response:
  """An error response of ours."""
  body = {"message": message, "type": kind, "param": None, "code": None}
  return web.json_response({"error": body}, status=status)


def refused(status: int, message: str, kind: str) -> Refused:
  """To be raised; see `error`."""
  return Refused(error(status, message, kind))


def full() -> Refused:
  """To be raised where there is no place for one more."""
  reason = refused(429, "the proxy is full", "rate_limit_exceeded")
  reason.response.headers["Retry-After"] = _RETRY_AFTER_S
  return reason


def no_answer(reason: Exception) -> web.Response:
  """502, or 504 for a timeout; says nothing of addresses."""
  late = isinstance(reason, TimeoutError)
  what = "did not answer in time" if late else "cannot be reached"
  return error(504 if late else 502, f"the upstream {what}", "upstream_error")


def handed_on(
  status: int,
  content: bytes,
  headers: Mapping[str, str],
  hide: Callable[[str], str],
) -> web.Response:
  """A whole response of the upstream; its errors get the form of OpenAI's.

  Args:
    status, content: of the upstream.
    headers: to add.
    hide: takes the upstream's key out of a text.
  """
  if status < 400:
    return web.Response(
      body=content,
      status=status,
      headers=headers,
      content_type="application/json",
    )
  text = hide(content.decode(errors="replace"))
  try:
    shaped = isinstance(json.loads(text)["error"], dict)
  except (ValueError, LookupError, TypeError, RecursionError):
    shaped = False
  if shaped:
    return web.Response(
      text=text,
      status=status,
      headers=headers,
      content_type="application/json",
    )
  response = error(status, text[:_LONGEST], "upstream_error")
  response.headers.update(headers)
  return response
