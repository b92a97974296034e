"""Which requests come from a client, and not from a web page.

A browser reaches a proxy on its own machine for any page, by a name of the
page's own as well (DNS rebinding). So without a key that clients show:

  1. Host names this machine, config.host or one of
     config.allowed_hosts, at any port;
  2. where a browser says that another page asks (Origin, Sec-Fetch-Site),
     the request is refused.

With a key or without: the target is a path (that Host stands there once, the
web framework sees to), a chat is application/json, which no page may send
unasked, and is not compressed. No CORS header is ever sent.
"""

import re

from aiohttp import web

from atlas_jax.addresses import is_loopback
from atlas_jax.online.proxy import errors
from atlas_jax.online.proxy.config import ProxyConfig

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", re.I | re.A)
_OWN_PAGE = {"same-origin", "none"}


def check_sender(
  request: web.Request, config: ProxyConfig, *, keyless: bool
) -> None:
  """Refuses what no client sends, and without a key what a page may have sent.

  Raises:
    Refused
  """
  if not request.raw_path.startswith("/"):
    raise errors.Refused(400, "the target must be a path")
  if not keyless:
    return
  host = request.headers.get("Host", "")
  found = _HOST.fullmatch(host)
  name = (found[1] or found[2]).lower() if found else None
  if not is_loopback(name) and name not in map(
    str.lower, (config.host, *config.allowed_hosts)
  ):
    raise errors.Refused(
      403, "Host names neither this machine nor an allowed host"
    )
  origin = request.headers.getall("Origin", ())
  sites = request.headers.getall("Sec-Fetch-Site", ())
  if set(origin) - {f"http://{host}"} or set(sites) - _OWN_PAGE:
    raise errors.Refused(403, "web pages of other sites may not ask")


def check_body(request: web.Request) -> None:
  """Refuses a chat that is not plain JSON, before it is read.

  Raises:
    Refused
  """
  if request.content_type != "application/json":
    raise errors.Refused(415, "Content-Type must be application/json")
  if request.headers.get("Content-Encoding", "identity") != "identity":
    raise errors.Refused(415, "the body must not be compressed")
