"""Models by LiteLLM, with its mock answers and against a local server."""

import json
import os
import subprocess
import sys

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from atlas_jax.online.calls.calls import ModelRefused
from atlas_jax.online.calls.ledger import Caps
from tests.online.opened import Run, ask, request
from tests.online.stub_server import Faults, StubServer

pytest.importorskip("litellm", reason="needs the extra `online`")
PAID = "openai/gpt-4o-mini"  # $0.15 and $0.60 per million tokens


def paid(run, timeout_s=5.0, **extra):
  return run.open(
    kind="litellm",
    model=PAID,
    api_key_env="K",
    retries=1,
    timeout_s=timeout_s,
    extra=extra,
  )


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
  ("completion", "total", "counted", "paid"),
  [
    # Hidden thinking is in the total alone.
    (2, 523, 521, 521),
    # Counts that make no sense: at the bound.
    (10**30, 2 + 10**30, None, 9),
  ],
)
def test_its_price_of_other_counts_is_not_taken(
  completion, total, counted, paid
):
  usage = {"prompt_tokens": 2, "completion_tokens": completion}
  choice = {"message": {"role": "assistant", "content": "a"}}
  body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
  body |= {"choices": [choice | {"index": 0, "finish_reason": "stop"}]}
  body |= {"usage": usage | {"total_tokens": total}}
  run = run_with_key()
  with StubServer(lambda m: web.json_response(body)) as stub:
    stub.model = "gpt-4o-mini"
    model = run.open(
      kind="litellm",
      model=PAID,
      url=stub.url + "/v1",
      api_key_env="K",
    )
    (reply,) = ask(model, request())
  assert (reply.status, reply.completion_tokens) == ("ok", counted)
  dollars = (2 * 0.15 + paid * 0.6) * 1e-6
  assert run.ledger.spent.dollars == pytest.approx(dollars)


def test_its_price_table_bounds_a_call():
  # Bound: (154 + 26 of extra) * 0.15 + 1000 * 0.6 = 627 millionths of a dollar.
  for dollars, sent in ((0.000626, False), (0.000628, True)):
    run = run_with_key(Caps(dollars=dollars))
    model = paid(run, mock_response="hello")
    (end,) = ask(model, request(max_tokens=1000))
    assert (getattr(end, "status", None) == "ok") is sent


@pytest.mark.parametrize(
  "extra, status",
  [
    ({"mock_response": "litellm.RateLimitError"}, "error"),
    ({"mock_timeout": True, "timeout_s": 0.2}, "timeout"),
  ],
)
def test_mock_failures_are_tried_again(extra, status):
  run = run_with_key()
  (reply,) = ask(paid(run, **extra), request())
  assert (reply.status, run.record.costs()[0]["attempts"]) == (status, 2)


def hosted(run, stub, **config):
  config = {"retries": 4, "timeout_s": 30.0} | config
  return run.open(
    kind="litellm", model="hosted_vllm/stub", url=stub.url + "/v1", **config
  )


def test_a_local_server_is_unpriced_and_needs_no_key():
  run = Run()
  with StubServer(lambda m: "three little words") as stub:
    (reply,) = ask(hosted(run, stub, extra={"top_p": 0.5}), request(seed=7))
    body = stub.calls[0].body
  assert (reply.status, reply.text) == ("ok", "three little words")
  assert (reply.prompt_tokens, reply.completion_tokens) == (2, 3)
  assert run.ledger.spent.unpriced == 1
  assert (body["seed"], body["top_p"], body["max_tokens"]) == (7, 0.5, 9)
  with pytest.raises(ConfigError, match=r"config\.student\.price_in"):
    hosted(Run(Caps(dollars=1)), stub)


def test_the_users_own_price_holds():
  run = Run(Caps(dollars=1.0))
  with StubServer(lambda m: "three little words") as stub:
    model = hosted(run, stub, price_in=1.0, price_out=4.0)
    ask(model, request())
  assert run.ledger.spent.dollars == pytest.approx(14e-6)


@pytest.mark.parametrize("kind", ["429", "500", "empty", "broken", "reset"])
def test_faults_are_tried_again_by_us_alone(kind):
  faults = Faults(0, 1.0, (kind,), in_a_row=2)
  run = Run()
  with StubServer(lambda m: "x", faults=faults) as stub:
    (reply,) = ask(hosted(run, stub), request())
    assert [call.fault for call in stub.calls] == [kind, kind, None]
  assert (reply.status, reply.text) == ("ok", "x")
  lost = 0 if kind in ("429", "500") else 2
  assert run.ledger.lost.calls == lost


def test_retry_after_reaches_us_through_litellm():
  faults = Faults(0, 1.0, ("429",), in_a_row=1, retry_after="1")
  with StubServer(lambda m: "x", faults=faults) as stub:
    ask(hosted(Run(), stub), request())
    first, second = (call.at for call in stub.calls)
  assert second - first >= 1.0


def test_a_refused_key_is_told_once_and_masked():
  run = Run(environ={"K": "sk-123456789"})
  with StubServer(lambda m: "x", api_key="other") as stub:
    model = hosted(run, stub, api_key_env="K", concurrency=1)
    ends = ask(model, *[request(f"{i}") for i in range(5)])
    assert len(stub.calls) == 1
  assert {type(e) for e in ends} == {ModelRefused}
  assert "wrong key Bearer ***" in str(ends[0])
  assert "sk-123456789" not in str(ends[0])


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
