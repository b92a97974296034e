"""launchers/proxy.py as a process: bad configs, keys, and its end."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import openai
import pytest

from tests import forked
from tests.online.production.proxied import TEACHING, teacher, upstream
from tests.online.stub_server import StubServer


def start(*flags, **environ):
  return forked.Process(
    "launchers.proxy",
    "--config=configs/proxy.py",
    *(f"--config.{flag}" for flag in flags),
    stderr=subprocess.STDOUT,
    env={**os.environ, **environ},
  )


def free_port() -> int:
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


UPSTREAM = "upstream.url=http://127.0.0.1:9/v1"
TEACHER = ("teacher.url=http://127.0.0.1:9/v1", "teacher.model=t")


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    ((), "config.upstream.url must be"),
    ((UPSTREAM,), "config.teacher.url must be"),
    ((UPSTREAM, TEACHER[0]), "config.teacher.model must name"),
    (
      (UPSTREAM, *TEACHER, "upstream.api_key_env=NOT_THERE"),
      "config.upstream.api_key_env: the variable NOT_THERE is not set",
    ),
    (
      (UPSTREAM, *TEACHER, "prompts_path=nowhere.json"),
      "nowhere.json cannot be read",
    ),
    (
      (UPSTREAM, *TEACHER, "prompts.teacher={question}"),
      "{probe} is missing",
    ),
    ((UPSTREAM, *TEACHER, "teach_deadline_s=0.0"), "deadline_s=0.0 must be"),
    ((UPSTREAM, *TEACHER, "host=0.0.0.0"), "config.host='0.0.0.0' lets other"),
    (
      (
        *(UPSTREAM, *TEACHER),
        *("upstream.forward_authorization=True", "api_key_env=HOME"),
      ),
      "passes the client's own key on",
    ),
  ],
)
def test_a_bad_config_is_one_line(flags, words):
  process = start(*flags)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 1
  (line,) = [x for x in output.splitlines() if x.startswith("error: ")]
  assert words in line and "Traceback" not in output


def test_it_serves_and_ends_after_the_open_request():
  port = free_port()
  answering = threading.Event()

  def answer(messages):
    if messages[-1]["content"].startswith("PROBE"):
      return "add"
    answering.set()
    return "the end"

  with (
    StubServer(answer, token_delay_s=0.5, api_key="sk-upstream") as up,
    teacher(TEACHING, api_key="sk-teacher") as teach,
  ):
    process = start(
      f"port={port}",
      f"upstream.url={up.url}/v1",
      "upstream.model=stub",
      "upstream.api_key_env=UP_KEY",
      f"teacher.url={teach.url}/v1",
      "teacher.model=stub",
      "teacher.api_key_env=TEACH_KEY",
      "api_key_env=CLIENT_KEY",
      "prompts.student_probe=PROBE {question}",
      UP_KEY="sk-upstream",
      TEACH_KEY="sk-teacher",
      CLIENT_KEY="sk-client",
    )
    try:
      wait_for(f"http://127.0.0.1:{port}/health", process)

      async def ask():
        client = openai.AsyncOpenAI(
          base_url=f"http://127.0.0.1:{port}/v1",
          api_key="sk-client",
          max_retries=0,
        )
        stream = await client.chat.completions.create(
          model="any",
          messages=[{"role": "user", "content": "a private question"}],
          stream=True,
        )
        assert stream.response.headers["x-atlas-teaching"] == "taught"
        assert answering.is_set()
        process.send_signal(signal.SIGTERM)
        pieces = [c.choices[0].delta.content or "" async for c in stream]
        await client.close()
        return "".join(pieces)

      assert asyncio.run(ask()) == "the end"
      output, _ = process.communicate(timeout=60)
    finally:
      process.kill()
      process.wait()
  assert process.returncode == 0, output
  assert "Traceback" not in output
  for secret in ("sk-upstream", "sk-teacher", "sk-client", "private"):
    assert secret not in output
  assert f"http://127.0.0.1:{port}/v1 puts" in output


def wait_for(url, process):
  """Until the proxy answers, or a minute has passed."""
  end = time.monotonic() + 60
  while True:
    try:
      urllib.request.urlopen(url, timeout=5).close()
      return
    except OSError:
      assert process.poll() is None and time.monotonic() < end
      time.sleep(0.2)


def test_a_best_prompts_file_is_used(tmp_path):
  names = ("baseline", "probe", "taught")
  templates = {f"student_{n}": f"{n} {{question}}" for n in names}
  templates["student_taught"] += " {teaching}"
  templates["teacher"] = "{question} {probe}"
  path = tmp_path / "best_prompts.json"
  path.write_text(json.dumps({"prompts": templates}))
  port = free_port()
  with upstream() as up, teacher() as teach:
    process = start(
      f"port={port}",
      f"upstream.url={up.url}/v1",
      f"teacher.url={teach.url}/v1",
      "teacher.model=stub",
      f"prompts_path={path}",
    )
    try:
      wait_for(f"http://127.0.0.1:{port}/health", process)
      client = openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
      )
      answer = client.chat.completions.create(
        model="stub", messages=[{"role": "user", "content": "1+1?"}]
      )
      assert answer.choices[0].message.content == "re taught"
      process.send_signal(signal.SIGINT)
      output, _ = process.communicate(timeout=60)
    finally:
      process.kill()
      process.wait()
  assert process.returncode == 0 and "Traceback" not in output
