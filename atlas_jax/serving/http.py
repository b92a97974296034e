"""The one HTTP client policy: what is sent where, and how much is read.

1. No redirect is followed: a key and a prompt go only where they were sent.
2. No cookies and no netrc. The servers of a run are asked straight; models and
   agents by the proxy of the environment (`proxy_of`).
3. A body is read up to a bound, counted as it is inflated, that of an error
   too; beyond it the connection is closed, not drained.
4. A connection that idled for 2 s is not used again: vLLM closes it after 5 s.
"""

import asyncio
import contextlib
import json
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp

from atlas_jax import addresses
from atlas_jax.errors import AtlasError
from atlas_jax.retries import FinalError, may_pass
from atlas_jax.scrubbing import answer_scrubber, error_line, scrubber

MOST_BYTES = 16 << 20  # the default of each config key max_response_bytes
_IDLE_S = 2.0
# What reading a body raises that is not the JSON which is expected.
NOT_THE_FORM = (
  ValueError,
  RecursionError,
  LookupError,
  TypeError,
  AttributeError,
)


class ServerError(AtlasError):
  """A server refused a request, or its answer cannot be used."""


class ServerDown(ServerError):
  """A server does not answer: it is gone, hangs, or fails at everything."""


class WeightsRefused(ServerError):
  """The teacher server does not take a file; it serves on as before."""


class Untaken(FinalError, aiohttp.ClientError):
  """An answer that no client of ours accepts; asking again does not help."""


class Redirected(Untaken):
  """The server answered with the address of another, maybe a relative one.

  Attributes:
    asked: the address of the server.
    origin: scheme and host of the other: its path may repeat what was said.
  """

  def __init__(self, url: str, status: int, location: str, sent: Mapping):
    keys = [value.removeprefix("Bearer ") for value in sent.values()]
    location = answer_scrubber({}, *keys)(location)
    parts = urllib.parse.urlsplit(addresses.bare(location, url))
    self.asked = addresses.bare(url)
    self.origin = f"{parts.scheme}://{parts.netloc}"
    super().__init__(
      f"{self.asked} answers {status} with a redirect to"
      f" {addresses.bare(location, url)}, which is not followed; if that is"
      " the server, give its address"
    )


class Broken(AtlasError, aiohttp.ClientError):
  """No HTTP, or an end before the end.

  The library's own error repeats what the server said, cut anywhere: maybe in
  the middle of a key.
  """


class TooLarge(Untaken):
  """The body has more bytes than are read."""

  def __init__(self, most_bytes: int):
    super().__init__(
      f"more than {most_bytes} bytes came, the bound max_response_bytes"
    )


def open_session(
  *,
  headers: dict[str, str] | None = None,
  limit: int = 0,
  connect_timeout_s: float | None = None,
  silence_timeout_s: float | None = None,
  answer_timeout_s: float | None = None,
) -> aiohttp.ClientSession:
  """The connections of one client; close it.

  Args:
    headers: of every request.
    limit: connections at one time; 0: no limit.
    connect_timeout_s: for a connection to be made.
    silence_timeout_s: between two reads.
    answer_timeout_s: of a request, to the end of its answer. None, of these
      three: the caller has a deadline.
  """
  return aiohttp.ClientSession(
    headers=headers,
    cookie_jar=aiohttp.DummyCookieJar(),
    connector=aiohttp.TCPConnector(limit=limit, keepalive_timeout=_IDLE_S),
    timeout=aiohttp.ClientTimeout(
      total=answer_timeout_s,
      sock_connect=connect_timeout_s,
      sock_read=silence_timeout_s,
    ),
  )


def proxy_of(url: str) -> str | None:
  """The proxy that the environment names for an address.

  HTTP_PROXY, HTTPS_PROXY and ALL_PROXY are obeyed, and NO_PROXY; a server on
  this machine is always asked straight.
  """
  parts = urllib.parse.urlsplit(url)
  host = parts.hostname or ""
  # NO_PROXY may name a port too.
  names = (host, parts.netloc.rpartition("@")[2])
  if addresses.is_loopback(host) or any(
    map(urllib.request.proxy_bypass, names)
  ):
    return None
  named = urllib.request.getproxies()
  proxy = named.get(parts.scheme) or named.get("all")
  return f"http://{proxy}" if proxy and "://" not in proxy else proxy


@contextlib.asynccontextmanager
async def request(
  session: aiohttp.ClientSession, method: str, url: str, **content
) -> AsyncIterator[aiohttp.ClientResponse]:
  """The response to a request, with its body still to come.

  Raises:
    Redirected: it names another address.
    aiohttp.ClientError, TimeoutError, OSError: no answer.
  """
  try:
    async with session.request(
      method, url, allow_redirects=False, **content
    ) as response:
      location = response.headers.get("Location")
      if response.status // 100 == 3 and location is not None:
        response.close()
        sent = response.request_info.headers
        raise Redirected(str(response.url), response.status, location, sent)
      yield response
  except (
    aiohttp.ClientResponseError,
    aiohttp.ClientPayloadError,
    aiohttp.ServerDisconnectedError,
  ) as error:
    kind = type(error).__name__
    raise Broken(f"the answer broke off, or is no HTTP ({kind})") from None


async def read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
  """The whole body.

  Raises:
    TooLarge: it has more bytes.
    aiohttp.ClientError, TimeoutError: it broke off.
  """
  content = bytearray()
  # aiohttp inflates in pieces of 64 KB, so a bomb is never there whole.
  while part := await response.content.readany():
    content += part
    if len(content) > most_bytes:
      response.close()
      raise TooLarge(most_bytes)
  return bytes(content)


def ask(
  method: str,
  url: str,
  body=None,
  *,
  file: Path | None = None,
  headers: Mapping[str, str] | None = None,
  api_key: str | None,
  timeout_s: float,
  most_bytes: int = MOST_BYTES,
) -> tuple[int, bytes]:
  """(status, content) of any answer, with a body sent as JSON, or a file.

  It blocks, and is for callers outside of an event loop. timeout_s is the
  deadline of the whole. Of an error comes the beginning, without the key.

  Raises:
    ServerError: the answer is a redirect, or too large.
    ServerDown: nothing answers.
  """
  sent = {"Authorization": f"Bearer {api_key}"} if api_key else {}
  opened = contextlib.nullcontext() if file is None else file.open("rb")

  async def answer() -> tuple[int, bytes]:
    async with (
      asyncio.timeout(timeout_s),
      open_session(headers={**sent, **(headers or {})}) as session,
      request(session, method, url, json=body, data=data) as response,
    ):
      content = await read(response, most_bytes)
      if response.status >= 400:
        text = content.decode(errors="replace")
        content = error_line(scrubber({}, api_key), text).encode()
      return response.status, content

  try:
    with opened as data:
      return asyncio.run(answer())
  except Untaken as error:
    raise ServerError(f"{addresses.bare(url)}: {error}") from None
  except (aiohttp.ClientError, TimeoutError, OSError) as error:
    why = str(error) or f"no answer in {timeout_s:g} s"
    raise ServerDown(f"{url} does not answer: {why}") from error


def ask_json(
  method: str, url: str, form: Mapping, *, timeout_s: float, **given
) -> dict:
  """What the JSON object that `ask` gets has under the keys of `form`.

  A server that is busy (409) is asked again.

  Args:
    form: key -> type, or types, of its value.

  Raises:
    WeightsRefused: 400.
    ServerDown: nothing answers, or with a status that may pass by, or with
      something else than such an object.
    ServerError: any other answer.
  """
  end = time.monotonic() + timeout_s
  while True:
    status, content = ask(method, url, timeout_s=timeout_s, **given)
    if status != 409 or time.monotonic() > end:
      break
    time.sleep(1)
  if status == 200:
    with contextlib.suppress(*NOT_THE_FORM):
      answer = json.loads(content)
      if all(isinstance(answer[key], form[key]) for key in form):
        return {key: answer[key] for key in form}
  kinds = {200: ServerDown, 400: WeightsRefused}
  other = ServerDown if may_pass(status) else ServerError
  scrub = scrubber({}, given.get("api_key"))
  text = error_line(scrub, content.decode(errors="replace"))
  raise kinds.get(status, other)(
    f"{addresses.bare(url)} answered {status}: {text}"
  )
