"""What the proxy counts and logs: failures, silence, and seconds."""

import logging

import openai
import pytest
from aiohttp import web

from tests.online.proxied import application, run, teacher, upstream


@pytest.mark.parametrize("status", [400, 500])
def test_an_upstream_that_refuses_counts_as_failed(status):
  async def chat(request):
    return web.json_response({"error": {"message": "no"}}, status=status)

  async def test(proxied):
    with pytest.raises(openai.APIStatusError):
      await proxied.ask()
    assert await proxied.counts() == {"failed": 1}

  with teacher() as teach:
    run(test, application(chat), teach)


def test_a_good_answer_logs_no_warning_and_its_seconds_are_counted(caplog):
  async def test(proxied):
    assert (await proxied.ask())[0] == "taught"
    seconds = {}
    for stage in ("probe", "teach", "answer", "total"):
      line = f'atlas_proxy_stage_seconds_%s{{stage="{stage}"}}'
      assert await proxied.metric(line % "count") == 1
      seconds[stage] = await proxied.metric(line % "sum")
    assert min(seconds["probe"], seconds["answer"]) >= 0.05
    assert seconds["teach"] >= 0.1
    parts = seconds["probe"] + seconds["teach"] + seconds["answer"]
    assert parts <= seconds["total"] + 0.05
    assert seconds["total"] < 60

  with (
    caplog.at_level(logging.WARNING),
    upstream(latency_s=0.05) as up,
    teacher(latency_s=0.1) as teach,
  ):
    run(test, up, teach)
  assert not [r for r in caplog.records if r.name.startswith("atlas_jax")]
