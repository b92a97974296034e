"""How a server is told the length and the sampling of an answer."""

import pytest
from aiohttp import web

from atlas_jax.online.calls.model_config import Wording
from tests.hostile_server import Hostile
from tests.online.opened import BOTH_KINDS, Run, ask, at, request
from tests.online.stub_server import StubServer

BODY = {"model": "m", "max_tokens": 9, "temperature": 0.0, "seed": 3}
NEWER = "max_completion_tokens"


@pytest.mark.parametrize(
  ("wording", "sent"),
  [
    ({}, {"max_tokens": 9, "temperature": 0.0, "seed": 3}),
    ({"max_tokens_key": NEWER}, {NEWER: 9, "temperature": 0.0, "seed": 3}),
    ({"send_temperature": False}, {"max_tokens": 9, "seed": 3}),
    ({"send_seed": False}, {"max_tokens": 9, "temperature": 0.0}),
  ],
)
def test_a_body_is_worded_as_the_server_takes_it(wording, sent):
  before = dict(BODY)
  assert Wording(**wording).worded(BODY) == {"model": "m"} | sent
  assert before == BODY
  assert Wording(**wording).worded({"model": "m"}) == {"model": "m"}


@BOTH_KINDS
@pytest.mark.parametrize(
  ("status", "named"), [(400, True), (422, True), (404, False), (500, False)]
)
def test_a_refusal_names_the_keys_that_may_mend_it(kind, status, named):
  def refuses(_):
    # The words of a server may be long, and errors are cut.
    error = {"error": {"message": "Unsupported parameter " + "x" * 900}}
    return web.json_response(error, status=status)

  words = {"max_tokens_key": NEWER, "send_temperature": False}
  with StubServer(refuses) as server:
    model = at(Run(), kind, server, retries=0, **words, send_seed=False)
    (reply,) = ask(model, request(seed=7))
  keys = "see max_tokens_key, send_temperature, send_seed"
  assert (keys in str(getattr(reply, "error", reply))) == named
  assert server.calls[0].body[NEWER] == 9
  assert not {"max_tokens", "temperature", "seed"} & server.calls[0].body.keys()


@pytest.mark.parametrize(
  ("written", "asked"),
  [
    ("", "/v1/chat/completions"),
    ("/", "/v1/chat/completions"),
    ("/api/v2", "/api/v2/chat/completions"),
    ("/v1/chat/completions", "/v1/chat/completions"),
    ("/chat/completions", "/chat/completions"),
    ("/chat/completions/", "/chat/completions"),
    ("/deployments/m/chat/completions", "/deployments/m/chat/completions"),
  ],
)
def test_an_address_is_taken_as_it_is_written(written, asked):
  with Hostile() as server:
    ask(Run().open(url=server.url + written, model="m", retries=0), request())
  assert [path for _, path, *_ in server.requests] == [asked]
