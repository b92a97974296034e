"""Which parts of an address may hold a secret.

Addresses of configs are written to files and logs, so keys do not go there.
"""

import functools
import ipaddress
import urllib.parse

from atlas_jax import secret_names


def problem(url: str | None) -> str | None:
  """What is wrong with the address of a server; None: nothing is.

  The text begins with a verb and does not repeat the address.
  """
  try:
    parts = urllib.parse.urlsplit(url or "")
    valid = parts.scheme in ("http", "https") and parts.hostname
    valid = valid and url.isprintable() and " " not in url
  except ValueError:
    valid = False
  if not valid:
    return "must be an address such as http://127.0.0.1:8000/v1"
  if "@" in parts.netloc or parts.query or parts.fragment:
    return "must hold no user, password or query, and no fragment"
  if secret_names.KEY.search(url):
    return "must hold no key"
  return None


def bare(url: str, base: str = "") -> str:
  """An address without user, query and fragment, for a text of one line."""
  try:
    parts = urllib.parse.urlsplit(urllib.parse.urljoin(base, url))
  except ValueError:
    return "an address that is not valid"
  host = parts.netloc.rpartition("@")[2]
  text = urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
  return "".join(c if c.isprintable() else "?" for c in text)


@functools.lru_cache(maxsize=64)
def is_loopback(host: str | None) -> bool:
  """Whether a host is this machine, whatever a name server says."""
  try:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False
