"""One client over several servers, all of them stubs of vLLM."""

import asyncio
import contextlib
import types

import pytest
from aiohttp import web

from atlas_jax.serving.client import Sampling, ServerDown, ServerError
from atlas_jax.serving.fleet import Fleet
from tests.serving.stub_vllm import SAMPLING, choice, client, stub


class Stub:
  """Answers each request with its seed; `down`: with 503; `seen`: the seeds."""

  def __init__(self, version="3"):
    self.version, self.down, self.seen = version, False, []
    self.healthy = lambda: not self.down  # as of server.Server
    self.gate = asyncio.Event()
    self.gate.set()

  async def handler(self, request):
    body = await request.json()
    params = body["sampling_params"]
    if "prompt_logprobs" in params:
      if self.down:
        return web.Response(status=503)
      rows = [{str(t): {"logprob": -2.0}} for t in body["token_ids"]]
      return web.json_response({"choices": [], "prompt_logprobs": rows})
    seed = params["seed"]
    self.seen.append(seed)
    await self.gate.wait()
    if self.down:
      return web.Response(status=503)
    span = {"version": self.version, "start": 0, "end": 2}
    answer = choice(ids=(seed, seed), versions=[span])
    return web.json_response({"choices": [answer]})


@contextlib.asynccontextmanager
async def fleet_of(*stubs):
  async with contextlib.AsyncExitStack() as stack:
    pairs = {}
    for one in stubs:
      url = await stack.enter_async_context(stub(one.handler))
      opened = client(url, retries=0)
      one.client = await stack.enter_async_context(opened)
      pairs[one.client] = one
    yield Fleet(pairs)


def sampling(seed, tokens=4):
  return Sampling(max_tokens=tokens, temperature=1.0, seed=seed)


def seeds(answers):
  return [done.token_ids[0] for (done,) in answers]


def test_a_request_goes_where_the_fewest_tokens_are_outstanding():
  async def main():
    a, b = Stub(), Stub()
    a.gate.clear()
    b.gate.clear()
    async with fleet_of(a, b) as fleet:
      # 100 tokens at the first, then 4 at a time until it has fewer.
      lengths = [100] + [24] * 5
      asked = []
      for seed, tokens in enumerate(lengths):
        work = fleet.generate([1] * 6, sampling(seed, tokens))
        asked.append(asyncio.ensure_future(work))
        await asyncio.sleep(0)
      while len(a.seen) + len(b.seen) < len(lengths):
        await asyncio.sleep(0.01)
      a.gate.set()
      b.gate.set()
      assert seeds(await asyncio.gather(*asked)) == list(range(len(lengths)))
    # 106 | 30, 60, 90, 120: the last goes to the first again.
    assert (sorted(a.seen), sorted(b.seen)) == ([0, 5], [1, 2, 3, 4])

  asyncio.run(main())


def test_the_prompts_of_a_group_stay_together():
  async def main():
    a, b = Stub(), Stub()
    async with fleet_of(a, b) as fleet:
      work = [
        fleet.generate([1], sampling(10 * g + i), group=("step", g))
        for i in range(3)
        for g in range(4)
      ]
      await asyncio.gather(*work)
    for one in (a, b):
      groups = [seed // 10 for seed in one.seen]
      assert len({*groups}) == 2 and len(groups) == 6
    # Without a group the second of two would go elsewhere.

  asyncio.run(main())


def test_a_server_that_dies_in_the_middle_loses_nothing():
  async def main():
    a, b = Stub(), Stub()
    a.gate.clear()
    async with fleet_of(a, b) as fleet:
      asked = asyncio.gather(
        *(fleet.generate([1], sampling(i), group=i % 4) for i in range(8))
      )
      while not a.seen:
        await asyncio.sleep(0.01)
      a.down = True
      a.gate.set()
      assert seeds(await asked) == list(range(8))  # each once, in its place
      assert fleet.left_out == {a.client} and fleet.back() == []
      assert fleet.numbers("student") == {
        "student_server_0_asked": 0.0,
        "student_server_1_asked": 1.0,
      }
      before = len(a.seen)
      await fleet.generate([1], sampling(9), group=0)
      assert len(a.seen) == before  # it is not asked
      a.down = False
      assert fleet.back() == [a.client]
      fleet.take_back(a.client)
      await asyncio.gather(
        *(fleet.generate([1], sampling(i), group=i) for i in range(2))
      )
      assert len(a.seen) == before + 1  # and has its share of the groups

  asyncio.run(main())


def test_all_down_is_an_error_and_all_are_asked_again_then():
  async def main():
    a, b = Stub(), Stub()
    a.down = b.down = True
    async with fleet_of(a, b) as fleet:
      with pytest.raises(ServerDown, match="503"):
        await fleet.generate([1], SAMPLING)
      assert fleet.left_out == set()
      b.down = False
      assert seeds([await fleet.generate([1], sampling(5))]) == [5]
      assert await fleet.scores([1], [2]) == [(-2.0,)]  # of those that answer

  asyncio.run(main())


def test_a_stranger_is_not_asked_where_none_is_left():
  async def main():
    a, b = Stub(), Stub()
    async with fleet_of(a, b) as fleet:
      a.down = True
      await fleet.generate([1], SAMPLING)
      a.down = False
      fleet.strangers.add(a.client)  # it came back with another model
      b.down = True
      with pytest.raises(ServerDown, match="503"):
        await fleet.generate([1], SAMPLING)
      assert fleet.asked() == [b.client]
      fleet.take_back(a.client)  # its own model again
      assert (fleet.left_out, fleet.strangers) == (set(), set())

  asyncio.run(main())


def test_a_refusal_is_the_requests_fault_and_nobody_is_left_out():
  async def main():
    async def refuse(request):
      return web.Response(status=400, text="too long")

    a = Stub()
    a.handler = refuse
    async with fleet_of(a, Stub()) as fleet:
      with pytest.raises(ServerError, match="too long"):
        await fleet.generate([1], SAMPLING)
      assert fleet.left_out == set()

  asyncio.run(main())


def test_an_answer_of_other_weights_does_not_count():
  async def main():
    a, b = Stub(version="default"), Stub(version="7")  # a was started again
    async with fleet_of(a, b) as fleet:
      fleet.require(7, {a: 7, b: 7})
      (done,) = await fleet.generate([1], sampling(1))
      assert (a.seen, b.seen, done.weight_version) == ([1], [1], 7)
      assert fleet.left_out == {a.client}
      # After the next publish those are asked that hold it.
      fleet.require(8, {a: 8, b: None})
      assert fleet.asked() == [a.client]
      with pytest.raises(ServerDown, match="weights default, not 8"):
        await fleet.generate([1], sampling(2))

  asyncio.run(main())


def test_the_longest_queue_is_a_number():
  def gauge(what, engine, length):
    labels = f'{{engine="{engine}",model_name="teacher"}}'
    return f"vllm:num_requests_{what}{labels} {length}\n"

  async def main():
    a, pages = (
      Stub(),
      [
        (("running", 0, 2.0), ("running", 1, 3.0), ("waiting", 0, 9.0)),
        (("running", 0, 1.0), ("waiting", 0, 11.0)),
      ],
    )

    async def metrics(request):
      text = "".join(gauge(*line) for line in pages.pop(0))
      return web.Response(text=f"# TYPE\n{text}vllm:num_requests_total 9\n")

    async with (
      stub(a.handler, {"/metrics": metrics}) as url,
      client(url) as one,
    ):
      fleet = Fleet({one: types.SimpleNamespace(healthy=lambda: True)})
      await fleet.generate([1], SAMPLING)
      await fleet.generate([1], SAMPLING)  # within a second: not looked
      assert len(pages) == 1
      fleet._looked[one] = 0.0
      await fleet.generate([1], SAMPLING)
      assert fleet.numbers("teacher") == {
        "teacher_server_0_asked": 1.0,
        "teacher_server_0_running": 5.0,
        "teacher_server_0_waiting": 11.0,
      }
      assert fleet.numbers("teacher") == {"teacher_server_0_asked": 1.0}

  asyncio.run(main())
