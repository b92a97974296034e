"""A plain chat through the proxy, and what came back."""

from tests.online.proxied import ASK


async def asked(proxied, **changes) -> tuple[int, str, dict]:
  """(status, text, headers) of a plain chat that is not taught."""
  body = {"messages": ASK, "n": 2, **changes}
  url = f"{proxied.url}/v1/chat/completions"
  async with proxied.session.post(url, json=body) as r:
    return r.status, await r.text(), dict(r.headers)
