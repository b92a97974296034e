"""Publishing to a real vLLM server, next to a real student.

The student was started on the weights that the teacher is given here, so
"equal to a server started fresh on the new weights" is a comparison of two.
"""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time

import blake3
import numpy as np
import pytest

from atlas_jax.serving import server
from atlas_jax.serving.client import Sampling, ServerDown, ServerError
from atlas_jax.serving.supervisor import descendants
from tests.online import opened
from tests.processes import running, wait_until
from tests.serving import publications, tiny_vllm
from tests.serving.pair import held, publish, said, sample, weights, write

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_update_is_equal_to_a_fresh_start(vllm_servers):
  old, fresh = sample(vllm_servers.teacher), sample(vllm_servers.student)
  assert said(old) != said(fresh)
  publish(weights(1), vllm_servers, 1)
  new = sample(vllm_servers.teacher)
  # Bit for bit: the prompt was asked before, so a stale cache would show.
  assert said(new) == said(fresh)
  assert {c.weight_version for c in new} == {1}
  assert {c.weight_version for c in fresh} == {"default"}
  sums = publications.checksums(weights(1))
  assert held(vllm_servers.teacher)["checksums"] == sums
  publish(weights(0), vllm_servers, 2)
  assert said(sample(vllm_servers.teacher)) == said(old)


def test_sampling_is_reproducible_and_seeds_differ(vllm_servers):
  first = sample(vllm_servers.student)
  assert said(sample(vllm_servers.student)) == said(first)
  assert len({c.token_ids for c in first}) == 4
  # Sample i of n has seed + i.
  third = sample(vllm_servers.student, sampling=Sampling(24, 1.0, seed=13))
  assert third[0].token_ids == first[2].token_ids


def test_score_agrees_with_the_sampler(vllm_servers):
  async def main():
    async with tiny_vllm.client(vllm_servers.student) as c:
      (done,) = await c.generate([1, 5, 9], Sampling(24, 1.0, seed=4))
      return done, await c.score([1, 5, 9], done.token_ids)

  done, scores = asyncio.run(main())
  np.testing.assert_allclose(scores, done.logprobs, atol=2e-5)


def test_a_chat_is_answered(vllm_servers):
  """As the roles of tests/online/search/test_servers.py ask."""
  student = vllm_servers.student
  run = opened.Run(environ={"K": student.api_key})
  model = run.open(
    kind="url", url=student.base_url, model=student.role, api_key_env="K"
  )
  (reply,) = opened.ask(model, opened.request("w5 w6", max_tokens=4))
  assert reply.status in ("ok", "truncated") and reply.text, reply


def test_temperature_is_in_the_logprobs(vllm_servers):
  async def main():
    async with tiny_vllm.client(vllm_servers.student) as c:
      (done,) = await c.generate([1, 5], Sampling(8, 0.5, seed=4))
      return done, await c.score([1, 5], done.token_ids)

  done, scores = asyncio.run(main())
  # Sharper than at temperature 1, where `score` is.
  assert np.mean(done.logprobs) > np.mean(scores) + 0.1


def test_eos_is_part_of_the_tokens(vllm_servers):
  done = [
    c
    for i in range(8)
    for c in sample(
      vllm_servers.student, sampling=Sampling(200, 1.0, n=8, seed=8 * i)
    )
  ]
  ended = [c for c in done if c.finish_reason == "stop"]
  assert ended and all(c.token_ids[-1] == tiny_vllm.EOS for c in ended)
  assert all(
    len(c.token_ids) == 200 for c in done if c.finish_reason == "length"
  )
  stop = done[0].token_ids[3]
  (c,) = sample(
    vllm_servers.student,
    sampling=Sampling(200, 1.0, seed=0, stop_token_ids=(stop,)),
  )
  assert c.token_ids == done[0].token_ids[: c.token_ids.index(stop) + 1]


def test_more_prompts_than_a_batch_holds(vllm_servers):
  # 64 prompts of 400 tokens: a seeded request whose prompt was cut to fit
  # would end the engine.
  async def main():
    async with tiny_vllm.client(vllm_servers.student) as c:
      sampling = Sampling(max_tokens=4, temperature=1.0, n=2, seed=3)
      return await asyncio.gather(
        *(c.generate([1 + i, *[5, 9] * 200], sampling) for i in range(64))
      )

  assert all(len(done) == 2 for done in asyncio.run(main()))
  assert vllm_servers.student.healthy()


def test_bad_requests_are_refused_at_once(vllm_servers):
  with pytest.raises(ServerError, match="400") as error:
    sample(vllm_servers.student, prompt=[1] * 600)
  assert type(error.value) is ServerError
  with pytest.raises(ServerError, match="400"):
    sample(vllm_servers.student, prompt=[1, tiny_vllm.VOCAB + 5])


def spoiled(**changes):
  return {**weights(1), **changes}


NORM = "model.norm.weight"
NAN = np.full(tiny_vllm.D, np.nan, np.float32)
REFUSALS = {
  "unknown": (spoiled(extra=NAN), "unknown to the model: extra"),
  "missing": (
    {k: v for k, v in weights(1).items() if k != NORM},
    f"lacks tensors of the model: {NORM}",
  ),
  "shape": (
    spoiled(**{NORM: np.ones(7, np.float32)}),
    r"wrong shape: model.norm.weight \(7,\) instead of \(64,\)",
  ),
  "nan": (spoiled(**{NORM: NAN}), f"NaN or infinite values in: {NORM}"),
  "inf": (
    spoiled(**{NORM: np.full(tiny_vllm.D, np.inf, np.float32)}),
    f"NaN or infinite values in: {NORM}",
  ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_weights_leave_the_old_ones(vllm_servers, case):
  tensors, reason = REFUSALS[case]
  publish(weights(0), vllm_servers, 3)
  before = sample(vllm_servers.teacher)
  with pytest.raises(ServerError, match=reason):
    publish(tensors, vllm_servers, 4)
  after = sample(vllm_servers.teacher)
  assert said(after) == said(before) and after[0].weight_version == 3


def test_refused_files_leave_the_old_weights(vllm_servers):
  teacher = vllm_servers.teacher
  publish(weights(0), vllm_servers, 5)
  before = sample(teacher)
  manifest = write(weights(1), teacher, 6)
  ((name, digest),) = manifest.files.items()
  good = teacher.weights_root / name
  outside = teacher.weights_root.parent / "outside.safetensors"
  outside.write_bytes(good.read_bytes())
  link = teacher.weights_root / "link.safetensors"
  link.symlink_to(outside)
  half = teacher.weights_root / "half.safetensors"
  half.write_bytes(good.read_bytes()[:-100])
  header = teacher.weights_root / "header.safetensors"
  header.write_bytes(good.read_bytes()[:40])
  swapped = {**manifest.checksums, NORM: "0" * 64}

  def refused(path, sums, reason):
    with pytest.raises(ServerError, match=reason):
      teacher.update_weights({str(path): digest}, "6", sums, 60)

  sums = manifest.checksums
  refused("../outside.safetensors", sums, "outside the weights root")
  refused(outside, sums, "outside the weights root")
  refused(link.name, sums, "outside the weights root")
  refused("none.safetensors", sums, "is not a file")
  refused(half.name, sums, "has another BLAKE3")
  digest = blake3.blake3(half.read_bytes()).hexdigest()
  refused(half.name, sums, "not a whole safetensors file")
  digest = blake3.blake3(header.read_bytes()).hexdigest()
  refused(header.name, sums, "not a whole safetensors file")
  digest = manifest.files[name]
  refused(good.name, swapped, f"differ from their checksums: {NORM}")
  refused(good.name, {}, "no promised checksum")
  refused(good.name, {**sums, "more": "0"}, "were promised: more")
  after = sample(teacher)
  assert said(after) == said(before) and after[0].weight_version == 5
  # And the same file, told right, is taken.
  teacher.update_weights(manifest.files, "6", sums, 60)
  assert sample(teacher)[0].weight_version == 6


def test_requests_during_an_update_have_one_version_each(vllm_servers):
  publish(weights(0), vllm_servers, 7)
  seen = set()

  async def main():
    teacher = vllm_servers.teacher
    async with tiny_vllm.client(teacher, request_timeout_s=120.0) as c:
      asks = [
        asyncio.create_task(
          c.generate([1, 5, i], Sampling(200, 1.0, n=4, seed=i))
        )
        for i in range(24)
      ]
      await asyncio.sleep(0.2)
      await asyncio.to_thread(publish, weights(1), vllm_servers, 8)
      asks.append(asyncio.create_task(c.generate([1, 5, 9], Sampling(8, 1.0))))
      for done in await asyncio.gather(*asks):
        seen.update(x.weight_version for x in done)
      return done

  last = asyncio.run(main())
  assert seen == {7, 8} and last[0].weight_version == 8


def test_an_update_waits_for_one_whose_client_is_gone(
  vllm_servers,
):
  teacher = vllm_servers.teacher
  publish(weights(0), vllm_servers, 9)
  manifest = write(weights(1), teacher, 10)
  args = (manifest.files, "10", manifest.checksums)
  # Long answers under way keep the first update waiting in its pause.
  long = Sampling(480, 1.0, n=48)
  asking = threading.Thread(target=sample, args=(teacher, (1, 4), long))
  asking.start()
  time.sleep(0.3)
  with pytest.raises(ServerDown):  # the client gives up in the middle
    teacher.update_weights(*args, timeout_s=0.05)
  body = dict(zip(("files", "version", "checksums"), args, strict=True))
  status, _ = teacher._request("POST", "/v1/atlas/update", body, timeout_s=60)
  assert status == 409
  teacher.update_weights(*args, timeout_s=60)
  assert sample(teacher)[0].weight_version == 10
  asking.join()


def test_the_student_has_no_way_in(vllm_servers):
  student = vllm_servers.student
  for method, path in (
    ("POST", "/v1/atlas/update"),
    ("GET", "/v1/atlas/weights"),
    ("POST", "/update_weights"),
    ("POST", "/collective_rpc"),
    ("POST", "/pause"),
  ):
    status, _ = student._request(method, path, {}, timeout_s=10)
    assert status == 404, path


OWNER = """
import sys, time
from pathlib import Path
from atlas_jax.serving import server
from tests.serving import tiny_vllm
s = tiny_vllm.student(Path(sys.argv[1]), Path(sys.argv[2]))
s.spawn()
print(s._process.pid, flush=True)
time.sleep(600)
"""


def test_kill_9_of_the_run_leaves_no_server(vllm_servers, tmp_path):
  model = vllm_servers.workdir / "new"
  owner = subprocess.Popen(
    [sys.executable, "-c", OWNER, str(model), str(tmp_path)],
    stdout=subprocess.PIPE,
  )
  supervised = int(owner.stdout.readline())
  # The API server has an engine process; killed while that still loads.
  assert wait_until(lambda: len(descendants(supervised)) >= 3, 120)
  tree = [supervised, *descendants(supervised)]
  owner.send_signal(signal.SIGKILL)
  owner.wait()
  owner.stdout.close()
  begin = time.monotonic()
  assert wait_until(lambda: not any(map(running, tree)), 10)
  assert time.monotonic() - begin < 6


def test_start_of_a_model_that_vllm_refuses(tmp_path, forking):
  model = tiny_vllm.save_model(tmp_path / "broken")
  config = json.loads((model / "config.json").read_text())
  config["architectures"] = ["NoSuchModel"]
  (model / "config.json").write_text(json.dumps(config))
  with pytest.raises(ServerError, match=r"student .*died .*NoSuchModel"):
    server.start(tiny_vllm.student(model, tmp_path))
