"""`python -m launchers.agent_check`: one probe, shown; its exit status."""

import os

from aiohttp import web

from tests import forked
from tests.online.agents.serving import Serving

SECRET = "sk-environment-secret"


def check(kind, *flags, **environ):
  return forked.run(
    "launchers.agent_check",
    *(f"--config=configs/agents/{kind}.py", *flags),
    env={**os.environ, **environ},
  )


def completion(text):
  message = {"role": "assistant", "content": text}
  return {
    "choices": [{"message": message, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1},
  }


def test_an_answer_is_shown_with_how_it_was_read():
  with Serving(lambda seen: completion(f"4 {seen.query}")) as server:
    done = check(
      "http",
      f"--config.http.url={server.url}/v1?key=${{AGENT_KEY}}",
      "--prompt=What is 2 + 2?",
      AGENT_KEY=SECRET,
    )
    (seen,) = server.seen
  assert done.returncode == 0, done.stderr
  assert seen.json["messages"][0]["content"] == "What is 2 + 2?"
  assert seen.query == {"key": SECRET}
  lines = done.stdout.splitlines()
  assert "status   ok" in lines
  assert (
    "read     HTTP 200, JSON, answer at choices[0].message.content" in lines
  )
  assert "text     4 {'key': '***'}" in lines
  assert "tokens   prompt 9, completion 1" in lines
  assert '           "url": "' + server.url + '/v1?key=${AGENT_KEY}",' in lines
  assert SECRET not in done.stdout + done.stderr


def test_a_failure_is_shown_and_is_the_exit_status():
  with Serving(lambda _: web.Response(status=503, text="busy")) as server:
    done = check("http", f"--config.http.url={server.url}")
    assert len(server.seen) == 1  # one probe, no retries
  assert done.returncode == 1
  assert "status   error" in done.stdout
  assert "error    HTTP 503: busy (would be tried again)" in done.stdout
  assert "Traceback" not in done.stderr


def test_a_shape_that_the_path_does_not_fit():
  with Serving(lambda _: {"output": {"text": "4"}}) as server:
    done = check("http", f"--config.http.url={server.url}")
  assert done.returncode == 1
  assert "{'output': {'text': '4'}} has no 'choices'" in done.stdout


def test_a_config_that_is_wrong_is_one_line():
  done = check("http", "--config.kind=openai_assistant")
  assert done.returncode == 1 and done.stdout == ""
  assert done.stderr.startswith("error: config.kind='openai_assistant'")
  assert done.stderr.count("\n") == 1


def test_a_command():
  done = check("cli", "--config.cli.argv=('cat',)", "--prompt=$(touch x)\nb")
  assert done.returncode == 0, done.stderr
  assert "text     $(touch x)\n         b\n" in done.stdout


def test_no_answer_commands_the_terminal():
  hostile = "4 \x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e"
  with Serving(lambda _: completion(hostile)) as server:
    done = check("http", f"--config.http.url={server.url}")
  assert done.returncode == 0, done.stderr
  # An answer is what a person would read; what else was said is spelled out.
  shown = done.stdout + done.stderr
  assert "text     4 " in done.stdout.splitlines()
  with Serving(lambda _: web.Response(status=503, text=hostile)) as server:
    done = check("http", f"--config.http.url={server.url}")
  assert "HTTP 503" in done.stdout
  assert r"\x1b[2J" in done.stdout
  shown += done.stdout + done.stderr
  assert not any(c in shown for c in "\x1b\x07\x9b\r\u202e")
