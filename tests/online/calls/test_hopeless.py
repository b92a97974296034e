"""What no other attempt can mend is told once, and costs nothing."""

import json

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from atlas_jax.online.calls.calls import ModelRefused
from atlas_jax.online.search import optimize
from tests.online import small_world
from tests.online.opened import Run, ask, request
from tests.online.stub_server import StubServer

# (status, body): a spent account or a refused key in the words of providers.
SPENT = [
  (400, {"error": {"message": "Your credit balance is too low to go on"}}),
  (402, {"error": "no money"}),
  (429, {"error": {"code": "insufficient_quota"}}),
  (429, {"error": {"code": "billing_hard_limit_reached"}}),
  (403, {"error": {"code": "billing_not_active", "message": "not active"}}),
  (200, {"error": {"code": 402, "message": "pay first"}}),
  (200, {"error": {"code": 401, "message": "who are you"}}),
  (200, {"error": {"status": "401", "message": "who are you"}}),
  (200, {"status": 402, "title": "pay first"}),
  (200, {"code": 401, "message": "who are you"}),
  (200, {"error": "Insufficient Balance"}),
  (200, {"error": {"type": "authentication_error", "message": "no"}}),
  (200, {"error": "Payment Required"}),
  (200, {"detail": "Invalid API key"}),
  (200, "Invalid API key"),
  (200, "402 Payment Required"),
  (500, {"error": "Incorrect API key provided: sk-***"}),
]


def sent(status, body) -> web.Response:
  text = body if isinstance(body, str) else json.dumps(body)
  return web.Response(status=status, text=text)


@pytest.mark.parametrize(("status", "body"), SPENT)
def test_a_model_s_calls_stop_at_once(status, body):
  run = Run()
  with StubServer(lambda m: sent(status, body)) as stub:
    model = run.open(url=stub.url, model="stub", concurrency=1)
    ends = ask(model, *(request(f"q {i}") for i in range(20)))
    assert len(stub.calls) == 1
  assert {type(end) for end in ends} == {ModelRefused}
  assert run.ledger.lost.calls == 0
  assert run.ledger.spent.tokens == 0


@pytest.mark.parametrize(("status", "body"), [SPENT[i] for i in (0, 3, 5, 10)])
def test_a_run_stops_at_once_and_goes_on_when_it_is_paid(
  tmp_path, status, body
):
  with StubServer(lambda m: sent(status, body)) as stub:
    config = small_world.config(tmp_path, stub.url, student__concurrency=1)
    with pytest.raises(ModelRefused, match="nothing more is sent to it"):
      optimize.optimize(config, tmp_path / "run", {})
    assert len(stub.calls) <= 2
    costs = json.loads((tmp_path / "run" / "costs.json").read_text())
    assert sum(line["lost_calls"] + line["tokens"] for line in costs) == 0
    stub.answer = small_world.answer
    optimize.optimize(config, tmp_path / "run", {})
  assert (tmp_path / "run" / "report" / "optimize.json").exists()


def test_a_word_of_money_in_a_question_is_no_spent_account():
  refusal = {"error": {"message": "too long: is any payment required of her?"}}
  run = Run()
  with StubServer(lambda m: web.json_response(refusal, status=400)) as stub:
    (reply,) = ask(run.open(url=stub.url), request())
  assert reply.status == "error"


KEYS = {
  "openai/gpt-4o-mini": "OPENAI_API_KEY",
  "anthropic/claude-3-5-haiku-latest": "ANTHROPIC_API_KEY",
  "gemini/gemini-2.5-flash": "GOOGLE_API_KEY or GEMINI_API_KEY",
}


@pytest.mark.parametrize("model", KEYS)
def test_a_key_that_is_missing_is_told_before_the_run(model, monkeypatch):
  pytest.importorskip("litellm")
  for names in KEYS.values():
    for name in names.split(" or "):
      monkeypatch.delenv(name, raising=False)
  run = Run(environ={"MINE": "sk-123456789"})
  with pytest.raises(ConfigError) as error:
    run.open(kind="litellm", model=model)
  assert str(error.value).startswith("config.student.api_key_env: ")
  assert KEYS[model] in str(error.value) and "\n" not in str(error.value)
  assert run.record.costs() == []
  # One that is named, one that is set, and an answer that needs none.
  run.open(kind="litellm", model=model, api_key_env="MINE")
  run.open(kind="litellm", model=model, extra={"mock_response": "42"})
  monkeypatch.setenv(KEYS[model].split(" or ")[-1], "sk-123456789")
  run.open(kind="litellm", model=model)


def test_a_key_that_is_lost_later_is_told_once(monkeypatch):
  pytest.importorskip("litellm")
  monkeypatch.setenv("OPENAI_API_KEY", "sk-123456789")
  run = Run()
  model = run.open(kind="litellm", model="openai/gpt-4o-mini")
  monkeypatch.delenv("OPENAI_API_KEY")
  ends = ask(model, *(request(f"q {i}") for i in range(50)))
  assert {type(end) for end in ends} == {ModelRefused}
  assert "OPENAI_API_KEY" in str(ends[-1])
  ledger = run.ledger
  assert (ledger.lost.calls, ledger.spent.dollars) == (0, 0.0)


@pytest.mark.parametrize("model", ["bedrock/x", "vertex_ai/x", "ollama/x"])
def test_providers_with_other_ways_in_are_opened(model):
  pytest.importorskip("litellm")
  Run().open(kind="litellm", model=model)
