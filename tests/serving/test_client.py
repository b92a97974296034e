"""The client against a stub of vLLM's generate endpoint."""

import asyncio
import time

import pytest
from aiohttp import web

from atlas_jax.serving.client import (
  Sampling,
  ServerDown,
  ServerError,
)
from tests.serving.stub_vllm import (
  SAMPLING,
  ask,
  choice,
  client,
  free_port,
  stub,
  unclosed,
)


def test_completion_and_request():
  (((done,),), (body,)) = ask([[choice()]])
  assert done.text == "7+8" and done.token_ids == (7, 8)
  assert done.logprobs == (-0.5, -0.25) and done.finish_reason == "length"
  assert done.weight_version == 3
  assert body == {
    "token_ids": [1, 2],
    "cache_salt": "s",
    "sampling_params": {
      "n": 1,
      "max_tokens": 4,
      "temperature": 1.0,
      "top_p": 1.0,
      "seed": 0,
      "logprobs": 0,
      "detokenize": False,
    },
  }


def test_samples_come_in_order_and_are_all_there():
  async def handler(request):
    n = (await request.json())["sampling_params"]["n"]
    return web.json_response(
      {"choices": [choice(i, ids=(i, i)) for i in reversed(range(min(n, 3)))]}
    )

  async def main():
    async with stub(handler) as url, client(url) as c:
      three = await c.generate([1], Sampling(4, 1.0, n=3))
      assert [d.token_ids[0] for d in three] == [0, 1, 2]
      with pytest.raises(ServerError, match="3 samples for n=4"):
        await c.generate([1], Sampling(4, 1.0, n=4))

  asyncio.run(main())


def test_weights_that_change_in_the_middle_count_as_the_oldest():
  spans = [
    {"version": "5", "start": 1, "end": 2},
    {"version": "4", "start": 0, "end": 1},
  ]
  (((done,),), _) = ask([[choice(versions=spans)]])
  assert done.weight_version == 4
  spans = [{"version": "default", "start": 0, "end": 2}]
  (((done,),), _) = ask([[choice(versions=spans)]])
  assert done.weight_version == "default"


@pytest.mark.parametrize("version", ["²", "٣", "4\n", "9" * 5000, "-1", ""])
def test_versions_that_are_no_numbers_stay_texts(version):
  spans = [{"version": version, "start": 0, "end": 2}]
  (((done,),), _) = ask([[choice(versions=spans)]])
  assert done.weight_version == version


@pytest.mark.parametrize("status", [409, 503])
def test_what_may_pass_is_tried_again_with_the_same_seed(status):
  down = dict(status=status, text="starting")
  ((done,),), bodies = ask([down, down, [choice()]])
  assert done.text == "7+8" and len(bodies) == 3
  assert bodies[0] == bodies[2]


def test_retry_after_is_waited_for():
  busy = dict(status=429, headers={"Retry-After": "1"})
  begin = time.monotonic()
  _, bodies = ask([busy, [choice()]])
  assert len(bodies) == 2 and time.monotonic() - begin >= 1


def test_400_is_not_tried_again():
  error, bodies = ask([dict(status=400, text="prompt too long")])
  assert type(error) is ServerError and len(bodies) == 1
  assert "prompt too long" in str(error)


def test_500_for_ever_is_a_server_that_is_down():
  error, bodies = ask([dict(status=500, text="engine dead")])
  assert type(error) is ServerDown and len(bodies) == 3
  assert "engine dead" in str(error)


@pytest.mark.parametrize("bad", [-9999.0, float("nan"), None])
def test_nan_logprob_is_an_error(bad):
  error, bodies = ask([[choice(logprobs=(-0.5, bad))]])
  assert type(error) is ServerError and len(bodies) == 1
  assert "token 1" in str(error)


def test_lengths_and_finish_reason_are_checked():
  error, _ = ask([[choice(logprobs=(-0.5,))]])
  assert "2 tokens with 1 log-probs" in str(error)
  error, _ = ask([[{**choice(), "finish_reason": "abort"}]])
  assert "'abort'" in str(error)


def test_nobody_listens():
  async def main():
    async with client(f"http://127.0.0.1:{free_port()}", retries=1) as c:
      with pytest.raises(ServerDown, match="failed 2 times"):
        await c.generate([1], SAMPLING)

  asyncio.run(main())


def test_a_cut_connection_is_tried_again():
  seen = []

  async def handler(request):
    seen.append(1)
    if len(seen) == 1:
      request.transport.close()
    return web.json_response({"choices": [choice()]})

  async def main():
    async with stub(handler) as url, client(url) as c:
      return await c.generate([1], SAMPLING)

  assert asyncio.run(main())[0].token_ids == (7, 8) and len(seen) == 2


def test_deadline():
  async def handler(request):
    await asyncio.sleep(3)
    return web.json_response({"choices": [choice()]})

  async def main():
    async with stub(handler) as url, client(url, timeout_s=0.3) as c:
      begin = time.monotonic()
      with pytest.raises(ServerDown, match=r"0\.3 s"):
        await c.generate([1], SAMPLING)
      assert time.monotonic() - begin < 2

  asyncio.run(main())


def test_concurrency_is_bounded_and_waiting_is_not_charged():
  now, most = 0, 0

  async def handler(request):
    nonlocal now, most
    now += 1
    most = max(most, now)
    await asyncio.sleep(0.1)
    now -= 1
    return web.json_response({"choices": [choice()]})

  async def main():
    # 12 requests of 0.1 s, 3 at a time: the last waits 0.3 s for its turn,
    # more than the deadline of a request.
    async with (
      stub(handler) as url,
      client(url, max_concurrency=3, timeout_s=0.25, retries=0) as c,
    ):
      await asyncio.gather(*[c.generate([1], SAMPLING) for _ in range(12)])

  asyncio.run(main())
  assert most == 3


def test_one_client_in_several_event_loops():
  async def handler(request):
    return web.json_response({"choices": [choice()]})

  port = free_port()
  c = unclosed(f"http://127.0.0.1:{port}")

  async def main():
    app = web.Application()
    app.router.add_post("/inference/v1/generate", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
      return await c.generate([1], SAMPLING)
    finally:
      await runner.cleanup()

  assert asyncio.run(main()) == asyncio.run(main())
  asyncio.run(c.aclose())


def test_score_picks_the_given_tokens():
  async def handler(request):
    assert (await request.json())["token_ids"] == [1, 2, 9, 8]
    rows = [None, {"2": {"logprob": -1.0}}]
    rows += [
      {"5": {"logprob": 0.0}, "9": {"logprob": -2.0}},
      {"8": {"logprob": -3.0}},
    ]
    return web.json_response({"choices": [], "prompt_logprobs": rows})

  async def main():
    async with stub(handler) as url, client(url) as c:
      return await c.score([1, 2], [9, 8])

  assert asyncio.run(main()) == (-2.0, -3.0)
