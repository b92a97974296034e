"""A real model: SmolLM2-135M-Instruct against transformers, in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.data import packing
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.model import decoder, hf, logprobs
from tests.model import by_hand

TEXTS = (
  "Janet has 16 eggs. She eats three and sells the rest at 2 dollars each.",
  "What is the capital of France?",
  "Explain in one sentence why the sky is blue, then count to five.",
)


@pytest.fixture(scope="module")
def smollm2(repo_root):
  path = repo_root / "models" / "smollm2-135m"
  if not (path / "config.json").exists():
    pytest.skip(f"no {path}: bash launchers/setup.sh --smollm2 makes it")
  return path


@pytest.mark.slow
def test_logprobs_equal_transformers(smollm2):
  import torch
  import transformers

  chat = ChatTokenizer.from_dir(smollm2)
  prompts = [np.array(chat.prompt_ids(text), np.int32) for text in TEXTS]
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    smollm2, dtype=torch.float32
  )
  expected = []
  with torch.no_grad():
    for ids in prompts:
      logits = theirs(torch.tensor(ids)[None].long()).logits[0, :-1]
      all_logprobs = torch.log_softmax(logits.double(), -1).numpy()
      expected.append(all_logprobs[np.arange(len(ids) - 1), ids[1:]])
  del theirs

  config, model = hf.load(smollm2, jnp.float32)
  mask = [np.r_[0.0, np.ones(len(ids) - 1)] for ids in prompts]
  sequences = [
    packing.TokenSequence(ids, m) for ids, m in zip(prompts, mask, strict=True)
  ]
  batch, _ = packing.pack(sequences, length=256, rows_multiple=1)

  options = dataclasses.replace(by_hand.PLAIN, logprob_chunk=64)

  @jax.jit
  def score(model):
    given = model, config, batch, options
    hidden = decoder.forward(*given)
    return logprobs.token_logprobs(*given, hidden, temperature=1.0)

  ours = np.asarray(score(model))[0]
  # Best fit puts the longest first.
  order = np.argsort([-len(ids) for ids in prompts], kind="stable")
  at = 0
  for i in order:
    n = len(prompts[i])
    np.testing.assert_allclose(ours[at + 1 : at + n], expected[i], atol=1e-3)
    at += n
