"""Prompts of one agent share no state, whatever could carry it."""

import os
import sys

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from tests.online.agents.asked import ask, http_agent, opened
from tests.online.agents.sdk import (
  chat_reply,
  response_reply,
  sdk_agent,
  sdk_missing,
)
from tests.online.agents.serving import Serving


@pytest.mark.parametrize(
  "kind",
  ["http", "responses", *(pytest.param("agents_sdk", marks=sdk_missing),)],
)
def test_no_cookie_of_one_prompt_goes_with_the_next(kind):
  def answer(seen):
    body = {"http": {"a": "x"}, "responses": response_reply("x")}
    reply = web.json_response(body.get(kind, chat_reply("x")))
    reply.set_cookie("session", "of-this-prompt", path="/")
    return reply

  with Serving(answer) as server:
    # A jar keeps no cookie of a server without a name.
    url = server.url.replace("127.0.0.1", "localhost")
    keys = {
      "http": http_agent(url),
      "responses": {"model": "m", "base_url": url, "api_key_env": None},
      "agents_sdk": sdk_agent(url),
    }[kind]
    replies = ask(opened(kind, keys, concurrency=1), "a", "b", "c")
  assert [r.status for r in replies] == ["ok"] * 3
  assert len(server.seen) == 3
  assert not any("Cookie" in seen.headers for seen in server.seen)


WRITES = """
import os, pathlib, sys, tempfile
seen = sorted(os.listdir(".")) + sorted(os.listdir(tempfile.gettempdir()))
pathlib.Path("history").write_text("x")
pathlib.Path(tempfile.gettempdir(), "note").write_text("x")
print(len(seen), os.getcwd())
"""


def test_a_command_finds_no_file_of_another_prompt(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "agent.py").write_text(WRITES)
  # The script is named from where we are.
  keys = {"argv": (sys.executable, "agent.py")}
  replies = ask(opened("cli", keys, concurrency=1), "a", "b")
  said = [reply.text.split() for reply in replies]
  assert [count for count, _ in said] == ["0", "0"]
  (_, first), (_, second) = said
  assert first != second
  assert not os.path.exists(first) and not os.path.exists(second)
  assert os.listdir(tmp_path) == ["agent.py"]


def test_a_command_may_be_given_a_directory(tmp_path):
  (tmp_path / "agent.py").write_text(WRITES)
  keys = {"argv": (sys.executable, "agent.py"), "directory": str(tmp_path)}
  replies = ask(opened("cli", keys, concurrency=1), "a", "b")
  assert [r.text.split() for r in replies] == [
    ["1", str(tmp_path)],
    ["2", str(tmp_path)],
  ]
  keys["directory"] = str(tmp_path / "none")
  with pytest.raises(ConfigError, match=r"cli\.directory=.* is no directory"):
    opened("cli", keys)


def test_words_that_happen_to_name_a_file_stay_words(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("run", "a.txt"):
    (tmp_path / name).write_text("")
  code = "import sys; print(sys.argv[1:])"
  argv = (sys.executable, "-c", code, "run", "a.txt", "b.txt", "--in=a.txt")
  reply = ask(opened("cli", {"argv": argv}), "q")
  there = str(tmp_path / "a.txt")
  assert reply.text == f"{['run', there, 'b.txt', '--in=a.txt']}\n"
