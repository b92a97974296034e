"""An OpenAI-compatible server with known answers, and faults when asked.

    with StubServer(lambda messages: "42", faults=Faults(seed=1)) as stub:
      ...  # POST to stub.url + "/v1/chat/completions"
      assert len(stub.calls) == 3

It serves from a thread of this process, so `answer` may close over anything.
`python -m tests.online.stub_server TEXT` serves one text from a process of
its own and prints its URL.

One word is one token: usage counts words, max_tokens cuts after that many.
`stream: true` is answered word by word.
"""

import asyncio
import hashlib
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

# 429        with Retry-After
# 500        with an error body
# timeout    no answer while the client waits
# empty      200 with an empty body
# null       content null
# truncated  half of the words, finish_reason length, less than max_tokens
# broken     200 with half of the JSON
# reset      the connection is closed without a word
KINDS = ("429", "500", "timeout", "empty", "null", "truncated", "broken")
ALL_KINDS = (*KINDS, "reset")


@dataclass(frozen=True)
class Faults:
  """Which requests fail. It depends on seed, content and repeat alone.

  share is the chance of each arrival of a request to meet a fault. An equal
  request (same body) meets at most `in_a_row` of them one after another, and
  is truncated once at most: a server that cuts it always has a limit of its
  own.
  """

  seed: int = 0
  share: float = 0.3
  kinds: tuple[str, ...] = KINDS
  in_a_row: int = 2
  retry_after: str = "0"  # the header's value on a 429

  def __post_init__(self):
    unknown = set(self.kinds) - set(ALL_KINDS)
    if unknown:
      raise ValueError(f"unknown faults {unknown}; valid: {ALL_KINDS}")

  def sequence(self, content: str, length: int) -> list[str | None]:
    """What the first `length` arrivals of one request meet."""
    digest = hashlib.sha256(f"{self.seed} {content}".encode()).hexdigest()
    draw, out, cut = random.Random(digest), [], False
    for _ in range(length):
      fault = None
      if draw.random() < self.share:
        fault = draw.choice(self.kinds)
      if fault == "truncated" and cut:
        fault = None
      row = out[-self.in_a_row :]
      if len(row) == self.in_a_row and None not in row:
        fault = None
      cut = cut or fault == "truncated"
      out.append(fault)
    return out


@dataclass
class Call:
  """One POST that arrived."""

  body: dict
  headers: dict[str, str]
  fault: str | None  # one of ALL_KINDS, or None
  at: float  # time.monotonic() of the arrival
  status: int | None = None  # None: under way, or the client went away

  @property
  def good(self) -> bool:
    return self.status == 200 and self.fault is None


def words(messages) -> int:
  return sum(len(str(m["content"]).split()) for m in messages)


class InThread:
  """Serves what `routes` adds, from a thread, while it is entered.

  Attributes:
    port: to serve at; 0: a free one.
  """

  port = 0

  def __enter__(self):
    started = threading.Event()
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(
      target=lambda: self._loop.run_until_complete(self._serve(started)),
      daemon=True,
    )
    self._thread.start()
    assert started.wait(10), "the server did not start"
    return self

  def __exit__(self, *exc):
    self._loop.call_soon_threadsafe(self._stop.set)
    self._thread.join(10)
    self._loop.close()

  async def _serve(self, started) -> None:
    self._stop = asyncio.Event()
    app = web.Application(client_max_size=1 << 26)
    self.routes(app.router)
    # Its own log would show what it was sent.
    runner = web.AppRunner(
      app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", self.port).start()
    self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    started.set()
    await self._stop.wait()
    await runner.cleanup()


@dataclass
class StubServer(InThread):
  """Serves while it is entered. All of `calls` may be read at any time.

  Args:
    answer: messages -> the text, or a message ({"content": ...,
      "reasoning_content": ...}), or an aiohttp.web.Response that is sent as
      it is.
    latency_s: before each answer.
    faults: None: none.
    model: the name that /v1/models tells; another name is answered with 404.
    api_key: when given, any other bearer token is answered with 401.
    usage: whether answers say their token counts.
    token_delay_s: between two words of a stream.
    answers: how many are given before it hangs; None: no end.
  """

  answer: Callable
  latency_s: float = 0.0
  faults: Faults | None = None
  model: str = "stub"
  api_key: str | None = None
  usage: bool = True
  token_delay_s: float = 0.0
  answers: int | None = None
  calls: list[Call] = field(default_factory=list)
  most_at_once: int = 0
  _at_once: int = 0
  _seen: Counter = field(default_factory=Counter)

  @property
  def good(self) -> list[Call]:
    """The calls that were answered as they should be."""
    return [call for call in self.calls if call.good]

  @property
  def asked(self) -> list[str]:
    """The last message of each call."""
    return [call.body["messages"][-1]["content"] for call in self.calls]

  def routes(self, router):
    router.add_get("/v1/models", self._models)
    router.add_get("/health", self._health)
    router.add_post("/v1/chat/completions", self._chat)

  async def _health(self, _):
    return web.json_response({})

  async def _models(self, request):
    if not self._allowed(request):
      return _refusal(401, "wrong key " + str(request.headers))
    return web.json_response({"object": "list", "data": [{"id": self.model}]})

  def _allowed(self, request) -> bool:
    wanted = f"Bearer {self.api_key}"
    return self.api_key is None or (
      request.headers.get("Authorization") == wanted
    )

  async def _chat(self, request):
    body = await request.json()
    call = Call(body, dict(request.headers), None, time.monotonic())
    self.calls.append(call)
    self._at_once += 1
    self.most_at_once = max(self.most_at_once, self._at_once)
    try:
      response = await self._reply(request, call)
    finally:
      self._at_once -= 1
    call.status = response.status
    return response

  async def _reply(self, request, call):
    if not self._allowed(request):
      # Some servers do repeat what they were sent.
      return _refusal(401, f"wrong key {request.headers['Authorization']}")
    if call.body["model"] != self.model:
      return _refusal(404, f"the model {call.body['model']} does not exist")
    content = json.dumps(call.body, sort_keys=True)
    if self.faults is not None:
      count = self._seen[content]
      self._seen[content] += 1
      call.fault = self.faults.sequence(content, count + 1)[-1]
    await asyncio.sleep(self.latency_s)
    if self.answers is not None:
      if self.answers == 0:
        await asyncio.sleep(3600)
      self.answers -= 1
    match call.fault:
      case "429":
        response = _refusal(429, "too many requests")
        response.headers["Retry-After"] = self.faults.retry_after
        return response
      case "500":
        return _refusal(500, "something broke")
      case "timeout":
        await asyncio.sleep(3600)
      case "empty":
        return web.Response(content_type="application/json")
      case "reset":
        request.transport.close()
        return web.Response()
    found = self.answer(call.body["messages"])
    if isinstance(found, web.StreamResponse):
      return found
    message = {"content": found} if isinstance(found, str) else dict(found)
    if call.body.get("stream"):
      return await self._stream(request, message["content"])
    payload = self._payload(call, {"role": "assistant", **message})
    text = json.dumps(payload)
    if call.fault == "broken":
      text = text[: len(text) // 2]
    return web.Response(text=text, content_type="application/json")

  def _payload(self, call, message) -> dict:
    limit = call.body.get("max_tokens", 1 << 30)
    text, reason = message["content"], "stop"
    if call.fault == "null":
      text = None
    if text is not None:
      parts = text.split(" ")
      keep = len(parts) // 2 if call.fault == "truncated" else limit
      if len(parts) > keep or call.fault == "truncated":
        text, reason = " ".join(parts[:keep]), "length"
    spoken = f"{text or ''} {message.get('reasoning_content') or ''}"
    prompt, completion = words(call.body["messages"]), len(spoken.split())
    payload = {
      "id": f"stub-{len(self.calls)}",
      "object": "chat.completion",
      "created": 0,
      "model": self.model,
      "choices": [
        {
          "index": 0,
          "message": message | {"content": text},
          "finish_reason": reason,
        }
      ],
    }
    if self.usage:
      payload["usage"] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
      }
    return payload

  async def _stream(self, request, text: str):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    parts = text.split(" ")
    deltas = [{"role": "assistant", "content": ""}]
    deltas += [{"content": p + " "} for p in parts[:-1]]
    deltas += [{"content": parts[-1]}, {}]
    for i, delta in enumerate(deltas):
      last = i == len(deltas) - 1
      chunk = {
        "id": "stub",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": self.model,
        "choices": [
          {
            "index": 0,
            "delta": delta,
            "finish_reason": "stop" if last else None,
          }
        ],
      }
      await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
      await asyncio.sleep(self.token_delay_s)
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _refusal(status: int, text: str) -> web.Response:
  return web.json_response(
    {"error": {"message": text, "type": "stub", "code": status}},
    status=status,
  )


if __name__ == "__main__":
  with StubServer(lambda messages: sys.argv[1]) as server:
    print(server.url, flush=True)
    threading.Event().wait()
