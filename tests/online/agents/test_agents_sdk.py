"""Agents of the OpenAI Agents SDK at a stub of its model server."""

import asyncio

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from atlas_jax.online.agents import agents_sdk
from tests.online.agents.asked import ask, opened
from tests.online.agents.sdk import (
  chat_reply,
  response_reply,
  sdk_agent,
  sdk_missing,
)
from tests.online.agents.serving import Serving

KEY = "sk-very-secret"
CALL_ADD = {
  "type": "function_call",
  "id": "fc_1",
  "call_id": "call_1",
  "name": "add",
  "arguments": '{"a": 1, "b": 1}',
  "status": "completed",
}


def test_without_the_package_it_says_what_to_install(monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, "agents", None)
  with pytest.raises(ConfigError, match=r"pip install -e '\.\[agents\]'"):
    opened("agents_sdk", {"target": "x:y"})


def script(*replies):
  """Answers in their order; the last one again and again."""
  left = list(replies)
  return lambda _: left.pop(0) if len(left) > 1 else left[0]


def run(target, answer, *, common=None, path="/v1", **keys):
  with Serving(answer) as server:
    keys = {"api_key_env": "MODEL_KEY"} | keys
    keys = sdk_agent(server.url + path, target, **keys)
    common = {"environ": {"MODEL_KEY": KEY}} | (common or {})
    reply = ask(opened("agents_sdk", keys, **common), "add 2 and 3")
    return reply, server.seen


@sdk_missing
def test_a_handoff_and_a_tool():
  reply, seen = run(
    "desk",
    script(
      chat_reply(None, tool=("transfer_to_calculator", "{}")),
      chat_reply(None, tool=("add", '{"a": 2, "b": 3}')),
      chat_reply("it is 5"),
    ),
  )
  assert (reply.status, reply.text) == ("ok", "it is 5")
  # Three model calls of 11 + 5 tokens.
  assert (reply.prompt_tokens, reply.completion_tokens) == (33, 15)
  assert [s.path for s in seen] == ["/v1/chat/completions"] * 3
  assert {s.headers["Authorization"] for s in seen} == {f"Bearer {KEY}"}
  # The tool ran: its result went back to the model.
  result = [m for m in seen[2].json["messages"] if m["role"] == "tool"][-1]
  assert result["content"] == "5"


@sdk_missing
@pytest.mark.parametrize(
  ("answer", "error"),
  [
    (chat_reply(None, tool=("add", '{"a": 1, "b": 1}')), "MaxTurnsExceeded"),
    (chat_reply(None, tool=("broken", "{}")), "the tool is broken"),
    (chat_reply(None, tool=("unknown", "{}")), "ModelBehaviorError"),
  ],
)
def test_runs_that_give_no_answer(answer, error):
  reply, _ = run("calculator", script(answer), max_turns=2)
  assert (reply.status, reply.text) == ("error", None)
  assert error in reply.error


@sdk_missing
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
@pytest.mark.parametrize("cut_at", [1, 2])
def test_an_answer_that_was_cut(api, cut_at):
  if api == "responses":
    whole = response_reply("half of")
    details = {"reason": "max_output_tokens"}
    cut = whole | {"status": "incomplete", "incomplete_details": details}
    called = response_reply(None, output=[CALL_ADD])
  else:
    whole = chat_reply("half of")
    cut = chat_reply("half of")
    cut["choices"][0]["finish_reason"] = "length"
    called = chat_reply(None, tool=("add", '{"a": 1, "b": 1}'))
  # The ending of the last call counts, after a tool as well.
  answers = [cut] if cut_at == 1 else [called, cut]
  reply, _ = run("calculator", script(*answers), api=api)
  assert (reply.status, reply.text) == ("truncated", "half of")
  reply, _ = run("calculator", script(called, whole), api=api)
  assert reply.status == "ok"


@sdk_missing
def test_model_calls_are_retried_and_the_run_is_not():
  seen_count = []

  def answer(_):
    seen_count.append(1)
    if len(seen_count) in (1, 3):
      headers = {"Retry-After-Ms": "1", "x-should-retry": "true"}
      return web.json_response({}, status=503, headers=headers)
    if len(seen_count) == 2:
      return chat_reply(None, tool=("add", '{"a": 1, "b": 1}'))
    return chat_reply("2")

  reply, seen = run("calculator", answer, common={"retries": 1})
  assert (reply.status, reply.text) == ("ok", "2")
  assert len(seen) == 4


@sdk_missing
def test_a_late_run_is_not_repeated_with_its_tools():
  calls = []

  async def answer(_):
    calls.append(1)
    if len(calls) % 2:
      return chat_reply(None, tool=("add", '{"a": 1, "b": 1}'))
    await asyncio.sleep(60)

  common = {"retries": 2, "timeout_s": 3.0}
  reply, _ = run("calculator", answer, common=common)
  assert reply.status == "timeout"
  # A second run would have begun with another call of the tool.
  assert len(calls) == 2


@sdk_missing
def test_a_refused_key_is_not_repeated():
  def answer(seen):
    text = f"wrong key {seen.headers['Authorization']}"
    return web.json_response({"error": {"message": text}}, status=401)

  reply, _ = run("plain", answer)
  assert reply.status == "error" and "401" in reply.error
  assert "***" in reply.error and KEY not in repr(reply)


@sdk_missing
@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_an_address_with_the_path_of_its_api(api, end):
  of = {"responses": response_reply("5"), "chat_completions": chat_reply("5")}
  path = {"responses": "responses", "chat_completions": "chat/completions"}[api]
  reply, (seen,) = run(
    "plain", lambda _: of[api], api=api, path=f"/v1/{path}{end}"
  )
  assert (reply.text, seen.path) == ("5", f"/v1/{path}")


@sdk_missing
def test_what_is_no_agent():
  with pytest.raises(ConfigError, match="is str, neither an agents"):
    run("no_agent", None)


@sdk_missing
@pytest.mark.parametrize(
  "answer",
  [
    chat_reply("API Error: 500 no answer"),
    chat_reply('{"is_error": true, "result": "5"}'),
    {"error": {"message": "overloaded", "code": 503}},
    {"detail": "Not Found"},
  ],
)
def test_an_error_with_a_good_status_is_no_answer(answer):
  reply, _ = run("calculator", lambda _: answer)
  assert (reply.status, reply.text) == ("error", None)


def keeps(seen):
  """Hands over where it must, keeps a word, then says what the tool gave."""
  said = [m["content"] for m in seen.json["messages"] if m["role"] == "tool"]
  if kept := [text for text in map(str, said) if "kept " in text]:
    return chat_reply(kept[-1])
  tools = [tool["function"]["name"] for tool in seen.json["tools"]]
  call = ("keep", '{"word": "w"}') if "keep" in tools else (tools[0], "{}")
  return chat_reply(None, tool=call)


@sdk_missing
@pytest.mark.parametrize(
  "target",
  [
    *("noting", "noting_anew", "noting_later", "noting_object"),
    *("front", "fronting"),
  ],
)
def test_servers_of_tools_are_of_one_prompt(target):
  with Serving(keeps) as server:
    agent = opened("agents_sdk", sdk_agent(server.url, target))
    replies = ask(agent, "a", "b", "c")
  for reply in replies:
    assert reply.ok and "kept w" in reply.text, reply
    assert "w,w" not in reply.text


@sdk_missing
def test_servers_that_a_function_gives_again_are_not_shared():
  with Serving(keeps) as server:
    keys = sdk_agent(server.url, "noting_again")
    replies = ask(opened("agents_sdk", keys), "a", "b", "c")
    after = ask(opened("agents_sdk", keys), "d")
  first, *others = sorted(replies, key=lambda reply: not reply.ok)
  assert first.text == after.text and "w,w" not in first.text
  for reply in others:
    assert "another prompt uses: it must make new ones" in reply.error


@sdk_missing
@pytest.mark.parametrize(
  ("target", "error"),
  [
    ("unconnected", "no such server"),
    ("no_agent_later", "made str, no Agent"),
  ],
)
def test_an_agent_that_cannot_be_had(target, error):
  reply, seen = run(target, None)
  assert reply.status == "error" and error in reply.error
  assert not seen


def test_a_server_that_never_ends_is_left_behind(monkeypatch):
  class Hangs:
    async def cleanup(self):
      await asyncio.Event().wait()

  monkeypatch.setattr(agents_sdk, "_CLEANUP_S", 0.05)
  asyncio.run(agents_sdk._cleaned_up(Hangs()))
