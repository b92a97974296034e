"""Checks addresses of configs, and strips the parts that may hold a secret.

Addresses are written to files and logs, so no key may stand in one.
"""

import functools
import ipaddress
import urllib.parse

from atlas_jax import secret_names


def problem(url: str | None) -> str | None:
  """Why the address of a server is refused; None: it is valid.

  The text begins with a verb and does not repeat the address.
  """
  try:
    parts = urllib.parse.urlsplit(url or "")
    valid = parts.scheme in ("http", "https") and parts.hostname
    valid = valid and url.isprintable() and " " not in url
    # Each raises where it is none: a port, and what name servers know.
    valid = valid and parts.port != 0 and parts.hostname.encode("idna")
  except ValueError:
    valid = False
  if not valid:
    return "must be an address such as http://127.0.0.1:8000/v1"
  more = "@" in parts.netloc or parts.query or parts.fragment
  if more or secret_names.in_text(url):
    return "must hold no user, password or query, no fragment and no key"
  return None


def bare(url: str, base: str = "") -> str:
  """An address without user, query, fragment and control characters."""
  try:
    parts = urllib.parse.urlsplit(urllib.parse.urljoin(base, url))
  except ValueError:
    return "an address that is not valid"
  host = parts.netloc.rpartition("@")[2]
  text = urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
  return "".join(c if c.isprintable() else "?" for c in text)


@functools.lru_cache(maxsize=64)
def is_loopback(host: str | None) -> bool:
  """Whether a host is this machine, without asking a name server."""
  try:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False
