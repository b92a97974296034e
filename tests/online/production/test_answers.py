"""The proxy as a stock OpenAI client meets it."""

import asyncio
import logging

import openai
import pytest
from aiohttp import web

from tests.online.production.proxied import (
  ASK,
  application,
  begin_stream,
  by_word,
  contents,
  proxy,
  refusal,
  teacher,
  upstream,
  working,
  write_word,
)


async def test_a_plain_answer_is_taught():
  async with proxy() as p:
    answer = await p.ask(temperature=0.25, seed=4, max_tokens=9)
    assert answer == ("taught", "re GUIDED")
    assert await p.counts() == {"taught": 1}
    # private words <teaching>count twice</teaching>: split at spaces, four.
    line = 'atlas_proxy_added_tokens_total{stage="teach"}'
    assert await p.metric(line) == 4
  assert contents(p.up) == ["PROBE 1+1?", "GUIDED 1+1? BY count twice"]
  assert contents(p.teach) == ["TEACH 1+1? FROM re PROBE"]
  probe, guided = (call.body for call in p.up.calls)
  assert (probe["max_tokens"], probe["temperature"]) == (50, 0.0)
  assert (guided["max_tokens"], guided["temperature"]) == (9, 0.25)
  assert guided["seed"] == probe["seed"] == 4


async def test_earlier_turns_are_kept_and_not_sent_to_the_teacher():
  earlier = [
    {"role": "system", "content": "a secret of the firm"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
  ]
  parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]
  async with proxy() as p:
    how, _ = await p.ask(
      messages=[*earlier, {"role": "user", "content": parts}]
    )
    assert how == "taught"
  turns = [call.body["messages"] for call in p.up.calls]
  assert [t[:-1] for t in turns] == [earlier] * 2
  assert contents(p.up)[1] == "GUIDED 1+1? BY count twice"
  assert len(p.teach.calls[0].body["messages"]) == 1


@pytest.mark.parametrize(
  "question",
  ["'\" $(touch x) `id` \n{question} {teaching} ½ 😀", "\ud800?"],
  ids=["odd", "half a surrogate pair"],
)
async def test_the_words_of_a_question_reach_the_upstream_unchanged(question):
  async with proxy() as p:
    messages = [{"role": "user", "content": question}]
    status, _, headers = await p.post(messages=messages)
    assert (status, headers["x-atlas-teaching"]) == (200, "taught")
  assert contents(p.up)[1] == f"GUIDED {question} BY count twice"


async def test_a_stream_arrives_word_by_word():
  words = ["one ", "two ", "three"]
  read = [asyncio.Event() for _ in words]

  async def chat(request, stream, _):
    response = await begin_stream(request)
    for word, seen in zip(words, read, strict=True):
      await write_word(response, word)
      # The next word is not written before the client has read this one.
      await asyncio.wait_for(seen.wait(), 60)
    await response.write(b"data: [DONE]\n\n")
    return response

  async with proxy(working(chat)) as p:
    stream = await p.client.chat.completions.create(
      model="any", messages=ASK, stream=True
    )
    assert stream.response.headers["x-atlas-teaching"] == "taught"
    got = []
    async for chunk in stream:
      got.append(chunk.choices[0].delta.content)
      read[len(got) - 1].set()
    assert got == words
    assert await p.counts() == {"taught": 1}


async def test_seconds_are_counted_and_a_good_answer_logs_no_warning(caplog):
  caplog.set_level(logging.WARNING)
  async with proxy(upstream(latency_s=0.05), teacher(latency_s=0.1)) as p:
    assert (await p.ask())[0] == "taught"
    seconds = {}
    for stage in ("probe", "teach", "answer", "total"):
      line = f'atlas_proxy_stage_seconds_%s{{stage="{stage}"}}'
      assert await p.metric(line % "count") == 1
      seconds[stage] = await p.metric(line % "sum")
    assert min(seconds["probe"], seconds["answer"]) >= 0.05
    assert seconds["teach"] >= 0.1
    parts = seconds["probe"] + seconds["teach"] + seconds["answer"]
    assert parts <= seconds["total"] + 0.05
    assert seconds["total"] < 60
  assert not [r for r in caplog.records if r.name.startswith("atlas_jax")]


@pytest.mark.parametrize("how", ["passed_through", "taught"])
async def test_a_request_that_the_upstream_refuses_has_failed(how):
  def no():
    return refusal(400)

  async with proxy(by_word(**{"1+1?": no, "GUIDED": no, "ALONE": no})) as p:
    with pytest.raises(openai.BadRequestError, match="no"):
      await p.ask(n=2 if how == "passed_through" else 1)
    assert await p.counts() == {"failed": 1}
  assert len(p.up.calls) == (1 if how == "passed_through" else 3)


async def test_an_error_of_another_shape_gets_that_of_openai():
  async def chat(_):
    return web.Response(text="bad gateway", status=502)

  async with proxy(application(chat)) as p:
    with pytest.raises(openai.InternalServerError) as info:
      await p.ask()
    assert info.value.status_code == 502
    assert info.value.body["message"] == "bad gateway"


async def test_an_upstream_that_is_away_is_502():
  with upstream() as gone:
    pass
  async with proxy(gone.url) as p:
    with pytest.raises(openai.InternalServerError) as info:
      await p.ask()
    assert info.value.status_code == 502
    assert info.value.response.headers["x-atlas-teaching"] == "alone_down"
    assert gone.url not in str(info.value)
    status, text = await p.get("/health")
    assert status == 503 and '"down"' in text
  assert p.teach.calls == []
