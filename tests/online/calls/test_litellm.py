"""Models by LiteLLM, with its mock answers and against a local server."""

import json
import os
import subprocess
import sys

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from atlas_jax.online.calls.ledger import Caps
from tests.online.agents.sdk import chat_reply
from tests.online.opened import Run, ask, at, request
from tests.online.stub_server import StubServer

pytest.importorskip("litellm", reason="needs the extra `online`")
PAID = "openai/gpt-4o-mini"  # $0.15 and $0.60 per million tokens


def paid(run, url=None, **extra):
  keys = {"model": PAID, "url": url, "api_key_env": "K", "extra": extra}
  return run.open(kind="litellm", retries=1, timeout_s=5.0, **keys)


def run_with_key(caps=Caps()):  # noqa: B008 it is frozen
  return Run(caps, environ={"K": "sk-123456789"})


def test_a_mock_answer_and_its_price():
  run = run_with_key()
  (reply,) = ask(paid(run, mock_response="hello there"), request())
  assert (reply.status, reply.text) == ("ok", "hello there")
  # LiteLLM says 10 and 20 tokens for its mock answers.
  assert (reply.prompt_tokens, reply.completion_tokens) == (10, 20)
  spent = run.ledger.spent
  assert spent.dollars == pytest.approx(10 * 0.15e-6 + 20 * 0.6e-6)


@pytest.mark.parametrize(
  ("completion", "total", "counted", "billed"),
  [
    # Hidden thinking is in the total alone.
    (2, 523, 521, 521),
    # Counts that make no sense: at the bound.
    (10**30, 2 + 10**30, None, 9),
  ],
)
def test_its_price_of_other_counts_is_not_taken(
  completion, total, counted, billed
):
  usage = {"prompt_tokens": 2, "completion_tokens": completion}
  body = chat_reply("a") | {"usage": usage | {"total_tokens": total}}
  run = run_with_key()
  with StubServer(lambda m: web.json_response(body)) as stub:
    stub.model = "gpt-4o-mini"
    (reply,) = ask(paid(run, url=stub.url + "/v1"), request())
  assert (reply.status, reply.completion_tokens) == ("ok", counted)
  dollars = (2 * 0.15 + billed * 0.6) * 1e-6
  assert run.ledger.spent.dollars == pytest.approx(dollars)


def test_its_price_table_bounds_a_call():
  # Bound: (154 + 26 of extra) * 0.15 + 1000 * 0.6 = 627 millionths of a dollar.
  for dollars, sent in ((0.000626, False), (0.000628, True)):
    run = run_with_key(Caps(dollars=dollars))
    model = paid(run, mock_response="hello")
    (end,) = ask(model, request(max_tokens=1000))
    assert (getattr(end, "status", None) == "ok") is sent


def test_a_local_server_is_unpriced_and_needs_no_key():
  run = Run()
  with StubServer(lambda m: "three little words") as stub:
    (reply,) = ask(
      at(run, "litellm", stub, extra={"top_p": 0.5}), request(seed=7)
    )
    body = stub.calls[0].body
  assert (reply.status, reply.text) == ("ok", "three little words")
  assert (reply.prompt_tokens, reply.completion_tokens) == (2, 3)
  assert run.ledger.spent.unpriced == 1
  assert (body["seed"], body["top_p"], body["max_tokens"]) == (7, 0.5, 9)
  with pytest.raises(ConfigError, match=r"config\.student\.price_in"):
    at(Run(Caps(dollars=1)), "litellm", stub)


def test_the_users_own_price_holds():
  run = Run(Caps(dollars=1.0))
  with StubServer(lambda m: "three little words") as stub:
    ask(at(run, "litellm", stub, price_in=1.0, price_out=4.0), request())
  assert run.ledger.spent.dollars == pytest.approx(14e-6)


def test_a_name_without_a_provider_is_refused_at_opening():
  with pytest.raises(ConfigError, match="PROVIDER/NAME"):
    Run().open(kind="litellm", model="nobody-knows-this")


def test_its_settings_are_made_before_it_is_imported(tmp_path):
  # A .env of the working directory must not be read.
  (tmp_path / ".env").write_text("FROM_DOTENV=1\n")
  script = (
    "import json, os, sys\n"
    "from tests.online.opened import Run\n"
    "before = 'litellm' in sys.modules\n"
    "Run().open(kind='litellm', model='hosted_vllm/x')\n"
    "print(json.dumps([before, 'litellm' in sys.modules,"
    " os.environ['LITELLM_LOCAL_MODEL_COST_MAP'],"
    " os.environ.get('FROM_DOTENV')]))\n"
  )
  root = os.getcwd()
  done = subprocess.run(
    [sys.executable, "-c", script],
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": root},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  assert found == [False, True, "True", None]
