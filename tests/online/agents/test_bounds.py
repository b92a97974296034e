"""Agents that say too much, for too long, or what they were trusted with."""

import asyncio
import base64
import sys
import tracemalloc

import pytest

from tests.hostile_server import Hostile, breaks, no_http, said
from tests.online.agents.asked import ask, by_command, opened, question
from tests.online.calls.ways import KEY, OWN, own

ENVIRON = {"AGENT_KEY": KEY}
BOUND = 1 << 20
TOO_LARGE = f"more than {BOUND} bytes came, the bound max_response_bytes"


BY_HTTP = pytest.mark.parametrize("kind", OWN)


@BY_HTTP
def test_a_server_that_repeats_the_key_in_every_way(kind):
  encoded = base64.b64encode(f"user:{KEY}".encode()).decode()
  text = f"{KEY} {encoded} {KEY.encode().hex()} \\u0073k-{KEY[3:]} " * 40
  with Hostile(said({"error": {"message": text}}, 400)) as server:
    reply = own(kind, server.url)
  assert reply.status == "error" and "***" in reply.error
  for part in (KEY[3:11], KEY[-8:], encoded[8:20], KEY.encode().hex()[8:20]):
    assert part not in reply.error


NO_HTTP = no_http(KEY)


@BY_HTTP
@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_not_repeated(kind, data):
  with Hostile(breaks(data)) as server:
    reply = own(kind, server.url, retries=0)
  assert reply.status == "error" and "broke off" in reply.error
  assert KEY[:4] not in reply.error


def script(code, **keys):
  common = {"environ": ENVIRON, "max_response_bytes": BOUND}
  return by_command(code, common=common, **keys)


@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.parametrize("status", [0, 3])
def test_an_output_beyond_the_bound_is_no_answer(stream, status):
  """Sparse, endless, and just beyond; whichever way the command ends."""
  for code in (
    f"import os; os.ftruncate({stream}, 2 << 30); os._exit({status})",
    f"import os\nwhile True: os.write({stream}, b'x' * 65536)",
    f"import os; os.write({stream}, b'x' * ({BOUND} + 1)); os._exit({status})",
  ):
    tracemalloc.start()
    try:
      reply = script(code)
      _, most = tracemalloc.get_traced_memory()
    finally:
      tracemalloc.stop()
    assert (reply.status, reply.text, reply.error) == ("error", None, TOO_LARGE)
    assert most < 8 * BOUND


def test_the_bound_itself_is_an_answer():
  reply = script(f"import os; os.write(1, b'x' * {BOUND})")
  assert (reply.status, len(reply.text)) == ("ok", BOUND)


def test_the_end_of_standard_error_without_half_a_key():
  for spare in range(0, 80, 7):
    code = (
      "import os, sys; keys = f' {os.environ[\"AGENT_KEY\"]}' * 9000;"
      f" sys.stderr.write(keys + 'z' * (300 - {spare})); sys.exit(1)"
    )
    reply = script(code, env=("AGENT_KEY",))
    left = reply.error.partition("ends with '")[2].rstrip("'")
    assert set(left) <= set(" *z") and left.endswith("z" * (300 - spare))


CATASTROPHIC = r"^(([a-z])+.)+[A-Z]([a-z])+$"


def test_an_output_regex_that_takes_for_ever_ends_at_the_deadline():
  """And nothing else waits for it."""
  keys = {
    "argv": (sys.executable, "-c", "print('a' * 5000)"),
    "output_regex": CATASTROPHIC,
  }
  agent = opened("cli", keys, timeout_s=2.0)
  ticks = 0

  async def tick():
    nonlocal ticks
    while True:
      await asyncio.sleep(0.01)
      ticks += 1

  async def main():
    ticking = asyncio.create_task(tick())
    reply = await agent.ask(question("q"))
    ticking.cancel()
    await agent.aclose()
    return reply

  reply = asyncio.run(main())
  assert reply.status == "timeout" and reply.seconds < 20
  assert ticks > 20


def test_the_last_of_very_many_matches():
  reply = script("print('ab' * 100_000 + 'c')", output_regex="[a-z]")
  assert reply.text == "c"


FUNCTIONS = f"""
KEY = {KEY!r}

def large(_):
  return "x" * {BOUND + 1}

def fits(_):
  return "x" * {BOUND - 99}

def breaks(prompt):
  raise ValueError("x" * int(prompt) + KEY + "y" * 500)
"""


@pytest.mark.parametrize("own_process", [False, True])
def test_a_function_that_returns_too_much(tmp_path, own_process):
  file = tmp_path / "functions.py"
  file.write_text(FUNCTIONS)
  for name, error in (("large", TOO_LARGE), ("fits", None)):
    keys = {"target": f"{file}:{name}", "own_process": own_process}
    reply = ask(opened("python", keys, max_response_bytes=BOUND), "q")
    assert reply.error == error and (reply.text is None) == (error is not None)


@pytest.mark.parametrize("own_process", [False, True])
def test_an_error_of_a_function_holds_no_half_of_a_key(tmp_path, own_process):
  file = tmp_path / "functions.py"
  file.write_text(FUNCTIONS)
  keys = {"target": f"{file}:breaks", "own_process": own_process}
  agent = opened("python", keys, environ=ENVIRON)
  # Processes of their own cost a tenth of a second each: a key's length apart.
  prompts = [str(n) for n in range(470, 600, 19 if own_process else 3)]
  for reply in ask(agent, *prompts):
    assert reply.error.startswith("ValueError: xxx")
    assert KEY[:4] not in reply.error and KEY[-4:] not in reply.error


def test_a_failed_response_holds_no_half_of_a_key():
  pytest.importorskip("openai", reason="needs the extra `agents`")
  from tests.online.agents.sdk import response_reply

  for before in range(440, 600, 23):
    error = {"code": "server_error", "message": "x" * before + KEY}
    refusal = {"type": "refusal", "refusal": "x" * before + KEY}
    refused = response_reply("")
    refused["output"][0]["content"] = [refusal]
    for value in (response_reply(None, status="failed", error=error), refused):
      with Hostile(said(value)) as server:
        keys = {
          "model": "m",
          "base_url": server.url,
          "api_key_env": "AGENT_KEY",
        }
        reply = ask(opened("responses", keys, environ=ENVIRON), "q")
      assert reply.status == "error" and "xxx" in reply.error
      assert KEY[:4] not in reply.error
