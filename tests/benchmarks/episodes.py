"""What the episode protocol costs: tokens a second with it and without it.

  python -m tests.benchmarks.episodes --model=runs/quickstart/student/export

Starts a teacher and a student server of one model and alternates two ways to
the same answers: `run_episodes`, and its very requests (token ids, seeds and
all) posted bare, in the three waves that need each other's answers (baselines
and probes; teachings; guided solutions) and, as the bound that no protocol can
reach, all at once. A cache salt of its own for every pass keeps the server's
prefix cache cold between passes and as it is within one.
"""

import argparse
import asyncio
import pathlib
import statistics
import tempfile
import time

import aiohttp

from atlas_jax.config import EpisodeConfig, PromptsConfig
from atlas_jax.data import teachable
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.server_config import ServerConfig
from atlas_jax.serving import server as server_lib
from atlas_jax.serving.client import Client
from atlas_jax.serving.fleet import Fleet
from atlas_jax.teaching.episode import run_episodes
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.speakers import Role
from configs import quickstart

PROMPTS = PromptsConfig(**quickstart.PROMPTS)


class Recorder(Client):
  """A client that keeps what it posts, in the order of the posts."""

  def record(self) -> list[tuple[str, dict]]:
    self.posts = []
    return self.posts

  async def _post(self, path, body):
    self.posts.append((self.base_url + path, body))
    return await super()._post(path, body)


def waves_of(teacher, student) -> list[list[tuple[str, dict]]]:
  """The posts of a pass by what they wait for."""
  first, last = [], []
  for post in student:
    # Guided solutions are the student's one-sample requests with a hint.
    (last if post[1]["guided"] else first).append(post)
  return [first, teacher, last]


async def bare(waves, salt, headers) -> tuple[float, int]:
  """(seconds, tokens) of posting every wave at once, one after the other."""
  # Shorter than the 5 s after which the server closes idle connections.
  connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3)
  async with aiohttp.ClientSession(
    headers=headers, connector=connector
  ) as session:

    async def one(url, body):
      body = {k: v for k, v in body.items() if k != "guided"}
      async with session.post(url, json={**body, "cache_salt": salt}) as r:
        answer = await r.json()
      return sum(len(c["token_ids"]) for c in answer["choices"])

    tokens, begin = 0, time.perf_counter()
    for wave in waves:
      tokens += sum(await asyncio.gather(*(one(*post) for post in wave)))
    return time.perf_counter() - begin, tokens


async def measure(args, teacher_server, student_server) -> None:
  chat = ChatTokenizer.from_dir(args.model)
  problems = teachable.problems({"count": args.problems}, 0)
  config = EpisodeConfig(
    max_probe_tokens=50,
    max_teaching_tokens=48,
    max_solution_tokens=64,
  )
  clients = [
    Recorder(
      s.base_url,
      decode=chat.decode,
      timeout_s=600,
      retries=0,
      max_concurrency=4096,
      api_key=s.api_key,
    )
    for s in (teacher_server, student_server)
  ]
  pairs = zip(clients, (teacher_server, student_server), strict=True)
  fleets = [Fleet({client: server}) for client, server in pairs]
  headers = {"Authorization": f"Bearer {teacher_server.api_key}"}
  rates: dict[str, list[float]] = {}
  for repeat in range(args.repeats + 1):  # the first warms up
    posts = [c.record() for c in clients]
    begin = time.perf_counter()
    episodes = await run_episodes(
      problems,
      teacher=Role(fleets[0], chat, f"teacher-{repeat}"),
      student=Role(fleets[1], chat, f"student-{repeat}"),
      prompts=Prompts(PROMPTS),
      config=config,
      group_size=args.group_size,
      baseline_samples=args.group_size,
      seed=0,
      step=repeat,
      baselines={},
    )
    seconds = time.perf_counter() - begin
    for _, body in posts[1]:
      body["guided"] = "Hint:" in chat.decode(body["token_ids"])
    waves = waves_of(*posts)
    everything = [[p for wave in waves for p in wave]]
    in_waves = await bare(waves, f"waves-{repeat}", headers)
    at_once = await bare(everything, f"once-{repeat}", headers)
    tokens = in_waves[1]
    passes = {
      "run_episodes": (seconds, tokens),
      "bare, in waves": in_waves,
      "bare, all at once": at_once,
    }
    for name, (s, n) in passes.items():
      if repeat:
        rates.setdefault(name, []).append(n / s)
    print(
      f"pass {repeat}: {len(episodes)} episodes, {len(everything[0])} requests"
      f", {tokens} tokens; "
      + ", ".join(f"{k} {s:.2f} s" for k, (s, _) in passes.items()),
      flush=True,
    )
  for client in clients:
    await client.aclose()
  ours = rates.pop("run_episodes")
  print(f"run_episodes: median {statistics.median(ours):.0f} tokens/s")
  for name, other in rates.items():
    ratio = statistics.median(a / b for a, b in zip(ours, other, strict=True))
    print(
      f"{name}: median {statistics.median(other):.0f} tokens/s; run_episodes"
      f" reaches {100 * ratio:.1f}% of it (median of pairs)"
    )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument("--problems", type=int, default=64)
  parser.add_argument("--group_size", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=5)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as work:
    servers = [
      kind(
        ServerConfig(
          dtype="float32",
          max_model_len=256,
          max_num_seqs=256,
          kv_cache_bytes=256 << 20,
          cpu_cores=core,
        ),
        model_path=args.model,
        workdir=work,
        start_timeout_s=600,
        api_key="benchmark",
      )
      for kind, core in (
        (server_lib.TeacherServer, "0"),
        (server_lib.StudentServer, "1"),
      )
    ]
    server_lib.start(*servers)
    try:
      asyncio.run(measure(args, *servers))
    finally:
      for server in servers:
        server.end()


if __name__ == "__main__":
  main()
