"""The proxy as a stock OpenAI client meets it."""

import asyncio

import openai
import pytest
from aiohttp import web

from atlas_jax.online.production.proxy.config import Keys
from tests.online.proxied import (
  ASK,
  application,
  begin_stream,
  contents,
  run,
  teacher,
  upstream,
  whole,
  write_word,
)


def test_a_plain_answer_is_taught():
  async def check(proxied):
    assert await proxied.ask(temperature=0.25, seed=4, max_tokens=9) == (
      "taught",
      "re GUIDED",
    )
    assert await proxied.counts() == {"taught": 1}
    # private words <teaching>count twice</teaching>: split at spaces, four.
    line = 'atlas_proxy_added_tokens_total{stage="teach"}'
    assert await proxied.metric(line) == 4

  with upstream() as up, teacher() as teach:
    run(check, up, teach)
  assert contents(up) == ["PROBE 1+1?", "GUIDED 1+1? BY count twice"]
  assert contents(teach) == ["TEACH 1+1? FROM re PROBE"]
  probe, guided = (call.body for call in up.calls)
  assert (probe["max_tokens"], probe["temperature"]) == (50, 0.0)
  assert (guided["max_tokens"], guided["temperature"]) == (9, 0.25)
  assert guided["seed"] == probe["seed"] == 4


def test_earlier_turns_are_kept_and_not_sent_to_the_teacher():
  earlier = [
    {"role": "system", "content": "a secret of the firm"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
  ]
  parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]

  async def check(proxied):
    messages = [*earlier, {"role": "user", "content": parts}]
    how, _ = await proxied.ask(messages=messages)
    assert how == "taught"

  with upstream() as up, teacher() as teach:
    run(check, up, teach)
  assert [call.body["messages"][:-1] for call in up.calls] == [earlier] * 2
  assert contents(up)[1] == "GUIDED 1+1? BY count twice"
  assert len(teach.calls[0].body["messages"]) == 1


def test_a_stream_arrives_word_by_word():
  words = ["one ", "two ", "three"]
  read = [asyncio.Event() for _ in words]

  async def chat(request):
    if not (await request.json()).get("stream"):
      return whole("plan")
    response = await begin_stream(request)
    for word, seen in zip(words, read, strict=True):
      await write_word(response, word)
      # The next word is not written before the client has read this one.
      await asyncio.wait_for(seen.wait(), 60)
    await response.write(b"data: [DONE]\n\n")
    return response

  async def check(proxied):
    stream = await proxied.client.chat.completions.create(
      model="any", messages=ASK, stream=True
    )
    assert stream.response.headers["x-atlas-teaching"] == "taught"
    got = []
    async for chunk in stream:
      got.append(chunk.choices[0].delta.content)
      read[len(got) - 1].set()
    assert got == words
    assert await proxied.counts() == {"taught": 1}

  with teacher() as teach:
    run(check, application(chat), teach)


@pytest.mark.parametrize("how", ["passed_through", "taught"])
def test_a_request_that_the_upstream_refuses_has_failed(how):
  def answer(messages):
    if messages[-1]["content"].startswith("PROBE"):
      return "an approach"
    return web.json_response({"error": {"message": "no"}}, status=400)

  async def check(proxied):
    with pytest.raises(openai.BadRequestError, match="no"):
      await proxied.ask(n=2 if how == "passed_through" else 1)
    assert await proxied.counts() == {"failed": 1}

  with upstream(answer) as up, teacher() as teach:
    run(check, up, teach)
  assert len(up.calls) == (1 if how == "passed_through" else 3)


def test_errors_of_the_upstream_are_passed_on_without_its_key():
  def answer(messages):
    if messages[-1]["content"].startswith("PROBE"):
      return "an approach"
    return web.json_response(
      {"error": {"message": "slow down", "type": "x", "code": 1}},
      status=429,
      headers={"Retry-After": "7"},
    )

  async def check(proxied):
    with pytest.raises(openai.RateLimitError, match="slow down") as info:
      await proxied.ask()
    assert info.value.response.headers["retry-after"] == "7"
    assert info.value.response.headers["x-atlas-teaching"] == "taught"
    with pytest.raises(openai.RateLimitError):
      await proxied.ask(stream=True)
    assert await proxied.counts() == {"failed": 2}

  with upstream(answer) as up, teacher() as teach:
    run(check, up, teach)

  async def check_key(proxied):
    # The stub repeats the key that it was sent.
    with pytest.raises(openai.AuthenticationError, match=r"Bearer \*\*\*"):
      await proxied.ask()
    status, text = await proxied.get("/v1/models")
    assert status == 401 and "sk-mine" not in text

  with upstream(api_key="another") as up, teacher() as teach:
    run(check_key, up, teach, keys=Keys(upstream="sk-mine"))


def test_an_error_of_another_shape_gets_that_of_openai():
  def answer(_):
    return web.Response(text="bad gateway", status=502)

  async def check(proxied):
    with pytest.raises(openai.InternalServerError) as info:
      await proxied.ask()
    assert info.value.status_code == 502
    assert info.value.body["message"] == "bad gateway"

  with upstream(answer) as up, teacher() as teach:
    run(check, up, teach)


def test_an_upstream_that_is_away_is_502():
  with upstream() as up, teacher() as teach:
    away = up.url
  with teacher() as teach:

    async def check(proxied):
      with pytest.raises(openai.InternalServerError) as info:
        await proxied.ask()
      assert info.value.status_code == 502
      assert info.value.response.headers["x-atlas-teaching"] == "alone_down"
      assert away not in str(info.value)
      status, text = await proxied.get("/health")
      assert status == 503 and '"down"' in text

    run(check, away, teach)
  assert teach.calls == []


def test_a_stream_that_breaks_off_is_an_error_for_the_client():
  async def chat(request):
    if not (await request.json()).get("stream"):
      return whole("plan")
    response = await begin_stream(request)
    await write_word(response, "a")
    await asyncio.sleep(0.05)
    request.transport.abort()
    return response

  async def check(proxied):
    pieces = []
    with pytest.raises(openai.APIError, match="cannot be reached"):
      async for chunk in await proxied.client.chat.completions.create(
        model="any", messages=ASK, stream=True
      ):
        pieces.append(chunk.choices[0].delta.content)
    assert pieces == ["a"]
    assert await proxied.counts() == {"failed": 1}

  with teacher() as teach:
    run(check, application(chat), teach)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_the_work_of_the_upstream(stream):
  working, ended = asyncio.Event(), asyncio.Event()

  async def chat(request):
    body = await request.json()
    if "PROBE" in body["messages"][-1]["content"]:
      return whole("plan")
    try:
      if stream:
        await write_word(await begin_stream(request), "a")
      working.set()
      await asyncio.sleep(600)
    except asyncio.CancelledError:
      ended.set()
      raise

  async def ask(proxied):
    answer = await proxied.client.chat.completions.create(
      model="any", messages=ASK, stream=stream
    )
    async for _ in answer:
      pass

  async def check(proxied):
    asking = asyncio.ensure_future(ask(proxied))
    await asyncio.wait_for(working.wait(), 60)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(ended.wait(), 60)
    while await proxied.metric("atlas_proxy_in_flight"):
      await asyncio.sleep(0.02)
    assert await proxied.counts() == {"cancelled": 1}

  with teacher() as teach:
    run(check, application(chat), teach)


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b"data: no\n\n"])
def test_a_client_that_leaves_after_the_last_event_has_its_answer(done):
  left = asyncio.Event()

  async def chat(request):
    body = await request.json()
    if "PROBE" in body["messages"][-1]["content"]:
      return whole("plan")
    stream = await begin_stream(request)
    await write_word(stream, "data: [DONE]")  # a word is not the event
    for part in (done[:9], done[9:]):
      await stream.write(part)
      await asyncio.sleep(0.05)
    await asyncio.wait_for(left.wait(), 60)
    return stream

  async def check(proxied):
    body = {"model": "any", "messages": ASK, "stream": True}
    url = f"{proxied.url}/v1/chat/completions"
    async with proxied.session.post(url, json=body) as answer:
      got = b""
      while done not in got:
        got += await answer.content.readany()
    while await proxied.metric("atlas_proxy_in_flight"):
      await asyncio.sleep(0.02)
    left.set()
    counted = "taught" if b"DONE" in done else "cancelled"
    assert await proxied.counts() == {counted: 1}

  with teacher() as teach:
    run(check, application(chat), teach)


def test_the_words_of_a_question_reach_the_upstream_unchanged():
  question = "'\" $(touch x) `id` \n{question} {teaching} ½ 😀"

  async def check(proxied):
    assert (await proxied.ask(question))[0] == "taught"

  with upstream() as up, teacher() as teach:
    run(check, up, teach)
  assert contents(up)[1] == f"GUIDED {question} BY count twice"


def test_half_a_surrogate_pair_is_a_question_too():
  data = rb'{"messages": [{"role": "user", "content": "\ud800?"}]}'

  async def check(proxied):
    url = f"{proxied.url}/v1/chat/completions"
    kind = {"Content-Type": "application/json"}
    async with proxied.session.post(url, data=data, headers=kind) as response:
      assert response.status == 200
      assert response.headers["x-atlas-teaching"] == "taught"

  with upstream() as up, teacher() as teach:
    run(check, up, teach)
  assert contents(up)[1] == "GUIDED \ud800? BY count twice"
