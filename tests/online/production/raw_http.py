"""Bytes to a proxy as no client library would send them, and the answer."""

import asyncio

CHAT = b'{"messages": [{"role": "user", "content": "1+1?"}]}'


def head(*lines: str, path="/v1/chat/completions", method="POST") -> bytes:
  """The head of a request; Host is this machine's unless a line names it."""
  named = any(line.lower().startswith("host") for line in lines)
  first = [] if named else ["Host: localhost"]
  first += ["Connection: close"]
  text = "\r\n".join([f"{method} {path} HTTP/1.1", *first, *lines])
  return text.encode("latin-1") + b"\r\n\r\n"


def chat(*lines: str, body: bytes = CHAT, kind="application/json") -> bytes:
  """A whole request for a chat."""
  size = f"Content-Length: {len(body)}"
  return head(f"Content-Type: {kind}", size, *lines) + body


async def send(proxied, data: bytes) -> bytes:
  """All that the proxy says until it closes; a silent one fails the test."""
  reader, writer = await asyncio.open_connection(*proxied.url[7:].split(":"))
  try:
    writer.write(data)
    await writer.drain()
    return await asyncio.wait_for(reader.read(), 60)
  except ConnectionError:
    return b""
  finally:
    writer.close()


def status(answer: bytes) -> int | None:
  return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else None
