"""The order of an update, and its answers, with a stand-in for the engine."""

import asyncio
import json
import types

import pytest

pytest.importorskip("vllm")

import httpx
from atlas_vllm import endpoint, weights_file
from blake3 import blake3
from fastapi import FastAPI
from vllm.v1.engine.exceptions import EngineDeadError

BODY = {
  "files": {"w.safetensors": "00"},
  "version": "4",
  "checksums": {"a": "0"},
}


class Engine:
  """Notes calls; `refusals` and `fails` steer it, `gate` holds the pause.

  As with vLLM's data parallelism, each engine is called, the first one's
  answer is returned, and what any raises comes as the text of an Exception.
  """

  def __init__(self):
    self.calls, self.fails, self.gate = [], None, None
    self.refusals = [None, None]  # of each engine
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
    for refusal in filter(None, self.refusals):
      raise Exception(f"Call to collective_rpc method failed: {refusal}")
    return [None if method == "atlas_prepare" else {"a": "0"}]

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
  await plugin.init_state(engine, app.state, types.SimpleNamespace(port=8000))
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


@pytest.mark.parametrize("engine_index", [0, 1])
def test_a_refusal_of_any_engine_does_not_pause_the_server(engine_index):
  async def main():
    engine = Engine()
    engine.refusals[engine_index] = "the file lacks \ud800\n b"
    async with await serve(engine) as http:
      answer = await http.post("/v1/atlas/update", json=BODY)
      assert answer.status_code == 400
      assert answer.json()["error"].endswith(r"the file lacks \ud800\n b")
      assert names(engine) == ["atlas_prepare", "atlas_forget"]
      engine.refusals[engine_index] = None
      answer = await http.post("/v1/atlas/update", json=BODY)
      assert answer.status_code == 200

  asyncio.run(main())


def test_a_dead_engine_is_no_refusal():
  async def main():
    engine = Engine()

    async def dead(method, args=()):
      raise EngineDeadError()

    engine.collective_rpc = dead
    async with await serve(engine) as http:
      with pytest.raises(EngineDeadError):  # vLLM makes a 500 of it
        await http.post("/v1/atlas/update", json=BODY)

  asyncio.run(main())


def body(**changes):
  return json.dumps({**BODY, **changes}).encode()


VERSIONS = [
  "", "-1", "+1", " 1", "1 ", "1\n", "1\nINFO forged", "\u00b2", "\u0661",
  "1.0", "1e3", "0x1", "01", "a", "1_0", "1\0", "1\ud800", "9" * 19,
  "9" * 5000, 4, None, True, ["4"],
]  # fmt: skip
BODIES = {
  "brackets": b"[" * 100_000,
  "objects": b'{"a":' * 100_000,
  "brackets in a field": body(checksums={})[:-1] + b', "x": ' + b"[" * 100_000,
  "no UTF-8": body().replace(b"w.saf", b"\xff\xfe"),
  "UTF-16": body().decode().encode("utf-16")[:-1],
  "empty": b"",
  "two": body() + body(),
  "half a surrogate": body(files={"\ud800.safetensors": ""}),
  "half a surrogate in a name": body(checksums={"\ud800": "0"}),
  "a huge number": body().replace(b'"4"', b"9" * 5000),
  "a huge exponent": body().replace(b'"4"', b"1e999999"),
  "NaN": body().replace(b'"4"', b"NaN"),
  "a long path": body(files={"d/" * 5000: ""}),
  "restart as a text": body(restart="true"),
  "restart as a number": body(restart=1),
  "checksums of numbers": body(checksums={"a": 0}),
  "checksums as a list": body(checksums=["a"]),
  "100,000 wrong ones": body(checksums={str(i): i for i in range(100_000)}),
  "too large": b" " * (16 << 20) + body(),
  **{f"version {v!r:.20}": body(version=v) for v in VERSIONS},
}


@pytest.mark.parametrize("case", BODIES)
def test_odd_bodies_are_refused_in_one_line(case):
  async def main():
    engine = Engine()
    async with await serve(engine) as http:
      answer = await http.post("/v1/atlas/update", content=BODIES[case])
      assert answer.status_code == 400
      error = answer.json()["error"]
      assert error.startswith("not a valid update: ")
      assert error.isprintable() and len(error) <= 1000
      assert engine.calls == []

  asyncio.run(main())


@pytest.mark.parametrize("version", ["0", "4", "10", "9" * 18])
def test_versions_are_digits(version):
  async def main():
    async with await serve(Engine()) as http:
      answer = await http.post(
        "/v1/atlas/update", content=body(version=version)
      )
      assert answer.json()["version"] == version

  asyncio.run(main())


def test_restart_reaches_the_engines():
  async def main():
    engine = Engine()
    async with await serve(engine) as http:
      await http.post("/v1/atlas/update", content=body(restart=True))
    assert engine.calls[0] == ("atlas_prepare", {**BODY, "restart": True})

  asyncio.run(main())


def test_of_many_updates_at_once_one_is_made():
  async def main():
    engine = Engine()
    engine.gate = asyncio.Event()
    async with await serve(engine) as http:
      posts = [
        asyncio.create_task(http.post("/v1/atlas/update", json=BODY))
        for _ in range(16)
      ]
      while sum(post.done() for post in posts) < 15:
        await asyncio.sleep(0)
      engine.gate.set()
      statuses = sorted([(await post).status_code for post in posts])
    assert statuses == [200] + [409] * 15
    assert names(engine).count("update") == names(engine).count("pause") == 1

  asyncio.run(main())


@pytest.mark.parametrize(
  "body",
  [b"{", b"[]", b'{"files": {"a": ""}}', b'{"files": {}, "version": "1"}'],
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


def test_files_that_come_while_an_update_runs_are_kept_for_the_next(tmp_path):
  """Its client waits no more, and sends the next version."""

  async def main():
    engine = Engine()
    engine.vllm_config.additional_config = {"atlas_weights_root": str(tmp_path)}
    engine.gate = asyncio.Event()

    async def send(http, version):
      digest = blake3(b"file").hexdigest()
      put = await http.put(
        f"/v1/atlas/files/weights-{version:08d}.safetensors",
        content=b"file",
        headers={"X-Atlas-Blake3": digest},
      )
      return {"files": {put.json()["path"]: digest}, "version": str(version)}

    async with await serve(engine) as http:
      body = BODY | await send(http, 4)
      first = asyncio.create_task(http.post("/v1/atlas/update", json=body))
      while "pause" not in names(engine):
        await asyncio.sleep(0)
      body = BODY | await send(http, 5)
      engine.gate.set()
      assert (await first).status_code == 200
      (path,) = body["files"]
      assert weights_file.inside(tmp_path, path).read_bytes() == b"file"
      second = await http.post("/v1/atlas/update", json=body)
      assert second.status_code == 200
      assert not (tmp_path / path).exists()  # nobody needs it any more

  asyncio.run(main())


@pytest.mark.parametrize("step", ["start", "update", "finish", "resume"])
def test_a_failure_in_the_middle_ends_the_server(monkeypatch, step):
  ended, hard = [], []
  monkeypatch.setattr(endpoint.os, "kill", lambda *args: ended.append(args))
  monkeypatch.setattr(endpoint.os, "_exit", hard.append)
  monkeypatch.setattr(endpoint, "_LONGEST_END_S", 0)

  async def main():
    engine = Engine()
    engine.fails = step
    async with await serve(engine) as http:
      answer = await http.post("/v1/atlas/update", json=BODY)
    assert answer.status_code == 500 and len(ended) == 1
    while not hard:  # whatever waits for the engine
      await asyncio.sleep(0)
    assert hard == [1]

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
