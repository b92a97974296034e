"""What the tests of a real teacher and a real student ask of them."""

import asyncio
import json

from atlas_jax.config import ServingConfig
from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import Sampling, ServerError
from tests.serving import publications, tiny_vllm

SAMPLING = Sampling(max_tokens=24, temperature=1.0, n=4, seed=11)


def sample(s, prompt=(1, 5, 9), sampling=SAMPLING):
  async def main():
    async with tiny_vllm.client(s) as c:
      return await c.generate(prompt, sampling)

  return asyncio.run(main())


def said(completions):
  """What was sampled, without the version."""
  return [(c.token_ids, c.logprobs, c.text) for c in completions]


def held(teacher):
  """What the server really holds: {"version": .., "checksums": {..}}."""
  status, answer = teacher._request("GET", "/v1/atlas/weights", timeout_s=60)
  if status != 200:
    raise ServerError(f"{status}: {answer[:500]}")
  return json.loads(answer)


def weights(seed):
  return tiny_vllm.weights("llama", seed, tied=True)


def publish(tensors, pair, version):
  """Each test begins anew: another may have left a newer version."""
  sender = weight_sync.WeightSender(pair.teacher, ServingConfig())
  return sender.send(publications.owned(tensors), version)


def write(tensors, teacher, version):
  return publications.write(tensors, teacher.weights_root, version)
