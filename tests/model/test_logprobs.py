import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.model import decoder, hf, logprobs
from tests.model import by_hand

TOKENS = np.random.default_rng(2).integers(0, 64, (2, 11)).astype(np.int32)
SEGMENTS = np.array([[1] * 4 + [2] * 5 + [0] * 2, [1] * 11], np.int32)
POSITIONS = np.array([[*range(4), *range(5), 0, 0], [*range(11)]], np.int32)
PREDICTED = np.array([[0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0], [0] + [1] * 10], bool)


@pytest.fixture(
  scope="module",
  params=["llama", pytest.param("tied", marks=pytest.mark.slow)],
)
def model(request, tiny_models, tmp_path_factory):
  if request.param == "llama":
    return hf.load(tiny_models["llama"], jnp.float32)
  from tests.model import tiny

  path = tmp_path_factory.mktemp("tied")
  tiny.save_model(path, "llama", tie_word_embeddings=True)
  return hf.load(path, jnp.float32)


def hidden_of(model, config):
  return decoder.forward(model, config, batch(), by_hand.PLAIN)


def batch(wanted=SEGMENTS):
  return by_hand.batch_of(TOKENS, SEGMENTS, SEGMENTS, POSITIONS, wanted)


def in_chunks(chunk):
  return dataclasses.replace(by_hand.PLAIN, logprob_chunk=chunk)


def full(model, config, temperature):
  """(log-probs, entropies) from all logits at once."""
  logits = by_hand.logits(model, config, hidden_of(model, config))
  logp = jax.nn.log_softmax(logits / temperature)[:, :-1]
  labels = jnp.asarray(TOKENS)[:, 1:, None]
  picked = jnp.take_along_axis(logp, labels, -1)[..., 0]
  entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
  pad = [(0, 0), (1, 0)]
  return (
    jnp.where(PREDICTED, jnp.pad(picked, pad), 0),
    jnp.where(PREDICTED, jnp.pad(entropy, pad), 0),
  )


def chunked(model, config, temperature, chunk, wanted=SEGMENTS):
  return logprobs.token_logprobs(
    *(model, config, batch(wanted), in_chunks(chunk)),
    hidden_of(model, config),
    temperature=temperature,
    with_entropy=True,
  )


# 22 tokens: one at a time, chunks that do not divide them, one chunk of all.
@pytest.mark.parametrize("chunk", [1, 5, 11, 22, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunks_equal_the_whole(model, chunk, temperature):
  config, params = model
  ours = chunked(params, config, temperature, chunk)
  expected = full(params, config, temperature)
  for a, b in zip(ours, expected, strict=True):
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=2e-6)
  assert not np.any(np.asarray(ours[0])[~PREDICTED])
  assert np.all(np.asarray(ours[0])[PREDICTED] < 0)


def test_gradient_equals_the_whole(model):
  config, params = model

  def loss(function, *args):
    def scalar(params):
      logprobs, entropy = function(params, config, *args)
      weights = jnp.arange(22.0).reshape(2, 11)
      return jnp.sum(weights * logprobs) + jnp.sum(entropy**2)

    return jax.jit(jax.grad(scalar))(params)

  ours, expected = loss(chunked, 0.6, 5), loss(full, 0.6)
  for a, b in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_what_is_not_wanted_is_zero_and_free(model):
  config, params = model
  wanted = np.zeros(TOKENS.shape, np.float32)
  # The last one is the first of its segment: nothing predicts it.
  wanted[0, 2] = wanted[0, 7] = wanted[1, 10] = wanted[1, 0] = 1

  def loss(params, wanted):
    scores = chunked(params, config, 0.6, 2, wanted)
    weighted = sum(jnp.sum(s * (1 + s)) for s in scores)
    return weighted, scores

  def masked(params):
    scores = full(params, config, 0.6)
    scores = [jnp.where(PREDICTED & (wanted > 0), s, 0) for s in scores]
    return sum(jnp.sum(s * (1 + s)) for s in scores), scores

  f = jax.jit(jax.grad(loss, has_aux=True))
  grads, ours = f(params, wanted)
  expected_grads, expected = jax.jit(jax.grad(masked, has_aux=True))(params)
  for a, b in zip(ours, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)
    assert np.count_nonzero(a) == 3
  for a, b in zip(
    jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())
  # None wanted: nothing is computed, and no gradient is NaN.
  grads, ours = f(params, np.zeros_like(wanted))
  assert not any(np.any(x) for x in jax.tree.leaves((grads, ours)))


def test_the_head_is_multiplied_for_wanted_tokens_alone(model):
  """A NaN state reaches the result only through a chunk that is computed."""
  config, params = model
  hidden = jnp.full((2, 11, config.d_model), jnp.nan)
  hidden = hidden.at[0, 1].set(1.0)
  wanted = np.zeros(TOKENS.shape, np.float32)
  wanted[0, 2] = 1

  def total(hidden):
    return jnp.sum(
      logprobs.token_logprobs(
        *(params, config, batch(wanted), in_chunks(1), hidden), temperature=1.0
      )
    )

  value, grad = jax.value_and_grad(total)(hidden)
  assert np.isfinite(value)
  assert np.any(grad[0, 1])
  assert not np.any(grad.at[0, 1].set(0))


@pytest.mark.parametrize("slices", [1, 19])
@pytest.mark.parametrize("highest", [0, 20, 64])
def test_entropies_of_large_logits(slices, highest):
  """Against float64; half of the tokens are all but certain."""
  rng = np.random.default_rng(0)
  head = rng.integers(-8, 9, (1900, 8)) / 8  # their products are exact
  hidden = rng.integers(-8, 9, (64, 8)) / 8
  head[:, 0], hidden[:, 0] = highest - 16, 1
  head[11] = highest, *(16 * hidden[0, 1:])
  logits = hidden @ head.T
  p = np.exp(logits - logits.max(1, keepdims=True))
  total = p.sum(1, keepdims=True)
  log_p = logits - logits.max(1, keepdims=True) - np.log(total)
  expected = -np.sum(p / total * log_p, axis=1)
  assert np.sum(expected < 0.1) > 9 and np.sum(expected > 3) > 9
  found, entropy = logprobs._scores(
    (32, True, 1900 // slices),
    *(jnp.asarray(x, jnp.float32) for x in (head, hidden)),
    *(jnp.zeros(64, jnp.int32), jnp.float32(1), jnp.int32(2)),
  )
  np.testing.assert_allclose(found, log_p[:, 0], rtol=2e-6)
  assert np.min(entropy) >= 0
  np.testing.assert_allclose(entropy, expected, rtol=1e-5, atol=1e-6)


def test_without_entropy_only_logprobs(model):
  config, params = model
  ours = logprobs.token_logprobs(
    *(params, config, batch(), in_chunks(5), hidden_of(params, config)),
    temperature=0.6,
  )
  expected = chunked(params, config, 0.6, 5)[0]
  np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_all_logits_never_exist():
  hf_config = {
    "model_type": "llama",
    "vocab_size": 20_000,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
  }
  config = decoder.DecoderConfig.from_hf(hf_config)
  abstract = hf.abstract(config, jnp.float32)
  rows = jax.ShapeDtypeStruct((4, 128), jnp.int32)

  def loss(model, tokens, segments, positions):
    ids = segments, segments, positions
    batch = by_hand.batch_of(tokens, *ids, segments)
    options = dataclasses.replace(in_chunks(16), remat="full")
    given = model, config, batch, options
    hidden = decoder.forward(*given)
    return jnp.sum(logprobs.token_logprobs(*given, hidden, temperature=1.0))

  lowered = jax.jit(jax.grad(loss)).lower(abstract, rows, rows, rows)
  temporary = lowered.compile().memory_analysis().temp_size_in_bytes
  all_logits = 4 * 128 * 20_000 * 4
  assert temporary < all_logits / 3
