"""Replies as OpenAI's two APIs give them, and whether the SDK is there."""

import importlib.util
import pathlib

import pytest

sdk_missing = pytest.mark.skipif(
  importlib.util.find_spec("agents") is None,
  reason="needs the OpenAI Agents SDK: pip install -e '.[agents]'",
)


def sdk_agent(url: str, target: str = "plain", **keys) -> dict:
  """The keys of an agent of sdk_agents.py whose model is at `url`."""
  file = pathlib.Path(__file__).with_name("sdk_agents.py")
  keys = {"api": "chat_completions", "base_url": url} | keys
  return {"target": f"{file}:{target}"} | keys


def response_reply(text: str | None, **changes) -> dict:
  """A response of the Responses API with one message; changes win."""
  content = [{"type": "output_text", "text": text, "annotations": []}]
  message = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [] if text is None else content,
  }
  return {
    "id": "resp_1",
    "object": "response",
    "created_at": 0,
    "model": "m",
    "status": "completed",
    "output": [message],
    "parallel_tool_calls": False,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
      "input_tokens": 11,
      "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
      "output_tokens": 5,
      "output_tokens_details": {"reasoning_tokens": 0},
      "total_tokens": 16,
    },
    **changes,
  }


def chat_reply(
  text: str | None, *, tool: tuple[str, str] | None = None
) -> dict:
  """A chat completion: a text, or the call of a (tool, JSON arguments)."""
  message = {"role": "assistant", "content": text}
  if tool is not None:
    name, arguments = tool
    function = {"name": name, "arguments": arguments}
    message["tool_calls"] = [
      {"id": f"call_{name}", "type": "function", "function": function}
    ]
  return {
    "id": "chat_1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
      {
        "index": 0,
        "message": message,
        "finish_reason": "stop" if tool is None else "tool_calls",
      }
    ],
    "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
  }
