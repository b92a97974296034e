"""Which failed requests are sent again, and when: one policy for all clients.

1. The statuses 408, 409, 425, 429 and 5xx may pass by; any other is final.
2. A connection or an answer that broke, and an answer that did not come in
   time, may pass by; a redirect, an answer that is too large and an address
   that is no URL are final.
3. The wait that a server asks for is obeyed up to 120 s: Retry-After, in
   seconds or as a date, retry-after-ms, or RetryInfo in the body of a 429.
4. Else the wait doubles from 0.5 s to 30 s, less a jitter that depends on the
   request and the attempt alone.

How often a request is sent again is in the config of each client.
"""

import datetime
import email.utils
import hashlib
import math
import re
from collections.abc import Mapping

import aiohttp

from atlas_jax.errors import AtlasError

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_LONGEST_RETRY_AFTER_S = 120.0
_HERD_S = 0.1  # spreads what a Retry-After would start at one moment
_AGAIN = (408, 409, 425, 429)
# google.rpc.RetryInfo, in JSON or in a text that quotes it.
_RETRY_INFO = re.compile(r"retryDelay\W{1,9}(\d+(?:\.\d+)?)s\b")


class FinalError(AtlasError):
  """An answer that would be the same however often one asks."""


def may_pass(failure: int | Exception) -> bool:
  """Whether a status, or an error of the client, may pass by itself."""
  if isinstance(failure, int):
    return failure in _AGAIN or failure >= 500
  broken = isinstance(failure, aiohttp.ClientError | OSError)
  return broken and not isinstance(failure, aiohttp.InvalidURL | FinalError)


def retry_after(
  headers: Mapping[str, str],
  now: datetime.datetime | None = None,
  *,
  body: str = "",
) -> float | None:
  """Seconds that a server asks to wait, bounded; None: none that make sense.

  The finer of two headers holds, and any header against `body`, that of a
  429.
  """
  # Not every library keeps the case of a header.
  headers = {k.lower(): v for k, v in headers.items()}
  info = _RETRY_INFO.search(body)
  for said, scale in (
    (headers.get("retry-after-ms"), 1e-3),
    (headers.get("retry-after"), 1.0),
    (info and info[1], 1.0),
  ):
    seconds = None if said is None else _seconds(said, now)
    if seconds is not None and not math.isnan(seconds):
      return min(max(seconds * scale, 0.0), _LONGEST_RETRY_AFTER_S)
  return None


def _seconds(said: str, now: datetime.datetime | None) -> float | None:
  """Those of a number or until a date."""
  try:
    return float(said)
  except ValueError:
    pass
  try:
    until = email.utils.parsedate_to_datetime(said)
  except (ValueError, OverflowError):
    return None
  if until.tzinfo is None:  # the date ends in -0000
    until = until.replace(tzinfo=datetime.UTC)
  now = now or datetime.datetime.now(datetime.UTC)
  return (until - now).total_seconds()


def pause_s(key: str, attempt: int, after: float | None) -> float:
  """Seconds to wait after the failed attempt number `attempt`, from 0.

  key: of the request. after: the seconds of its `retry_after`.
  """
  digest = hashlib.sha256(f"{key} {attempt}".encode()).digest()
  jitter = int.from_bytes(digest[:4], "big") / 2**32  # in [0, 1)
  if after is not None:
    return after + _HERD_S * jitter
  wait = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
  return wait * (1 - jitter / 2)
