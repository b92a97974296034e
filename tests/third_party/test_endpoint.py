"""The order of an update, and its answers, with a stand-in for the engine."""

import asyncio
import types

import pytest

pytest.importorskip("vllm")

import httpx
from atlas_vllm import endpoint
from fastapi import FastAPI

BODY = {"path": "w.safetensors", "version": "4", "checksums": {"a": "0"}}


class Engine:
  """Notes calls; `refusal` and `fails` steer it, `gate` holds the pause."""

  def __init__(self):
    self.calls, self.refusal, self.fails, self.gate = [], None, None, None
    self.vllm_config = types.SimpleNamespace(
      weight_transfer_config=types.SimpleNamespace(backend="atlas"),
      additional_config={"atlas_weights_root": "/root"},
    )

  async def _note(self, name, *args):
    self.calls.append((name, *args))
    if self.fails == name:
      raise RuntimeError("engine trouble")

  async def collective_rpc(self, method, args=()):
    await self._note(method, *args)
    return [self.refusal if method == "atlas_prepare" else {"a": "0"}]

  async def init_weight_transfer_engine(self, request):
    await self._note("init", request.init_info)

  async def pause_generation(self, *, mode, clear_cache):
    await self._note("pause", mode, clear_cache)
    if self.gate is not None:
      await self.gate.wait()

  async def start_weight_update(self):
    await self._note("start")

  async def update_weights(self, request):
    await self._note("update", request.update_info)

  async def finish_weight_update(self, version):
    await self._note("finish", version)

  async def resume_generation(self):
    await self._note("resume")

  async def get_weight_version(self):
    return "4"


def names(engine):
  return [call[0] for call in engine.calls]


async def serve(engine):
  """An HTTP client of the two paths."""
  plugin, app = endpoint.register(), FastAPI()
  plugin.attach_router(app)
  await plugin.init_state(engine, app.state, None)
  engine.calls.clear()
  return httpx.AsyncClient(
    transport=httpx.ASGITransport(app), base_url="http://test"
  )


def test_sequence():
  async def main():
    engine = Engine()
    async with await serve(engine) as http:
      answer = await http.post("/v1/atlas/update", json=BODY)
    assert answer.status_code == 200 and answer.json()["version"] == "4"
    assert engine.calls == [
      ("atlas_prepare", BODY),
      ("pause", "wait", True),
      ("start",),
      ("update", BODY),
      ("finish", "4"),
      ("resume",),
    ]

  asyncio.run(main())


def test_a_refused_file_does_not_pause_the_server():
  async def main():
    engine = Engine()
    engine.refusal = "the file lacks b"
    async with await serve(engine) as http:
      answer = await http.post("/v1/atlas/update", json=BODY)
      assert answer.status_code == 400
      assert answer.json() == {"error": "the file lacks b"}
      assert names(engine) == ["atlas_prepare"]
      engine.refusal = None
      answer = await http.post("/v1/atlas/update", json=BODY)
      assert answer.status_code == 200

  asyncio.run(main())


@pytest.mark.parametrize(
  "body", [b"{", b"[]", b'{"path": "a"}', b'{"path": "", "version": "1"}']
)
def test_bodies_that_are_not_updates(body):
  async def main():
    engine = Engine()
    async with await serve(engine) as http:
      answer = await http.post("/v1/atlas/update", content=body)
      assert answer.status_code == 400
      assert "not a valid update" in answer.json()["error"]
      assert engine.calls == []
      extra = await http.post("/v1/atlas/update", json={**BODY, "x": 1})
      assert extra.status_code == 400

  asyncio.run(main())


def test_one_update_at_a_time_and_a_client_that_goes_away():
  async def main():
    engine = Engine()
    engine.gate = asyncio.Event()
    async with await serve(engine) as http:
      first = asyncio.create_task(http.post("/v1/atlas/update", json=BODY))
      while "pause" not in names(engine):
        await asyncio.sleep(0)
      second = await http.post("/v1/atlas/update", json=BODY)
      assert second.status_code == 409
      assert (await http.get("/v1/atlas/weights")).status_code == 409
      first.cancel()
      with pytest.raises(asyncio.CancelledError):
        await first
      engine.gate.set()
      while "resume" not in names(engine):
        await asyncio.sleep(0)
      await asyncio.sleep(0)
      held = await http.get("/v1/atlas/weights")
      assert held.json() == {"version": "4", "checksums": {"a": "0"}}

  asyncio.run(main())


@pytest.mark.parametrize("step", ["start", "update", "finish", "resume"])
def test_a_failure_in_the_middle_ends_the_server(monkeypatch, step):
  ended = []
  monkeypatch.setattr(endpoint.os, "kill", lambda *args: ended.append(args))

  async def main():
    engine = Engine()
    engine.fails = step
    async with await serve(engine) as http:
      answer = await http.post("/v1/atlas/update", json=BODY)
    assert answer.status_code == 500 and len(ended) == 1

  asyncio.run(main())


def test_missing_flags_stop_the_start():
  async def main():
    engine = Engine()
    engine.vllm_config.additional_config = {}
    with pytest.raises(ValueError, match="--additional-config"):
      await serve(engine)
    engine.vllm_config.weight_transfer_config = None
    with pytest.raises(ValueError, match="--weight-transfer-config"):
      await serve(engine)

  asyncio.run(main())
