"""What is common to all kinds: slots, retries, hidden secrets."""

import asyncio
import dataclasses
import logging
import time

import pytest
from aiohttp import web

from atlas_jax.online.agents import build
from atlas_jax.online.calls.asker import Asker
from atlas_jax.scrubbing import scrubber
from tests.online.agents import echoes
from tests.online.agents.asked import ask, configured, opened
from tests.online.agents.serving import Serving

SECRET = "sk-environment-secret"
BODY = {"q": "{prompt}"}


def test_concurrency_is_bounded_and_used():
  async def answer(_):
    await asyncio.sleep(0.4)
    return "x"

  with Serving(answer) as server:
    keys = {"url": server.url, "body": BODY}
    start = time.monotonic()
    replies = ask(opened("http", keys, concurrency=3), *"abcdefghi")
    seconds = time.monotonic() - start
  assert [r.status for r in replies] == ["ok"] * 9
  assert server.most_at_once == 3
  assert 1.2 <= seconds < 3.6  # three rounds; one by one it takes 3.6


def test_the_fingerprint_is_of_what_changes_answers():
  config = configured("http", {"url": "http://a", "body": BODY})
  prints = {
    build.fingerprint(dataclasses.replace(config, **change))
    for change in ({}, {"timeout_s": 1.0}, {"retries": 9}, {"concurrency": 1})
  }
  assert len(prints) == 1
  other = configured("http", {"url": "http://b", "body": BODY})
  assert build.fingerprint(other) not in prints


@pytest.mark.parametrize("place", ["headers", "query", "url"])
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_secret_is_sent_and_then_never_seen(place, status, caplog):
  caplog.set_level(logging.DEBUG)

  def answer(seen):
    # The rudest server: it repeats all that it was sent.
    everything = f"{seen.headers} {seen.path} {seen.query}"
    assert SECRET in everything
    return web.Response(status=status, text=everything)

  with Serving(answer) as server:
    keys = {"url": server.url, "body": BODY}
    keys |= {
      "headers": {"headers": {"X-Api-Key": "Bearer ${AGENT}"}},
      "query": {"query": {"key": "${AGENT}"}},
      "url": {"url": f"{server.url}/${{AGENT}}"},
    }[place]
    agent = opened("http", keys, environ={"AGENT": SECRET})
    reply = ask(agent, "q")
  assert "***" in repr(reply)
  texts = [repr(agent), agent.name, repr(reply), caplog.text]
  assert SECRET not in " ".join(texts)


@pytest.mark.parametrize("own_process", [False, True])
def test_a_secret_by_its_name_is_hidden_in_a_function_s_error(own_process):
  keys = {"target": f"{echoes.__file__}:raises", "own_process": own_process}
  environ = {"SOME_API_KEY": SECRET}
  reply = ask(opened("python", keys, environ=environ), "key")
  assert reply.error == "KeyError: 'Error: 401 ***'"


def test_a_reply_that_no_reader_was_made_for_is_an_error():
  sent = []

  class Odd:
    repeats = True

    async def send(self, prompt):
      sent.append(prompt)
      raise LookupError(f"lost {SECRET}")

    async def aclose(self):
      pass

  agent = Asker(
    transport=Odd(),
    name="odd",
    where="config.agent",
    retries=2,
    is_agent=True,
    scrub=scrubber({"SOME_API_KEY": SECRET}),
  )
  reply = ask(agent, "q")
  assert (reply.status, len(sent)) == ("error", 1)
  assert reply.error == "LookupError: lost ***"
