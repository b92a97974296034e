"""An asynchronous client of a vLLM server: token ids in, token ids out.

It speaks `POST /inference/v1/generate` (vLLM with --enable-scale-out). What
was sampled is kept: ids, the sampler's log-probs and the version of the
weights that made them, so that nothing is ever tokenised again.

When a request fails:
  1. what may pass by (retries.py), and an answer that cannot be read, is tried
     again, `retries` times at most; a request says its seed, so that a repeat
     gives the same answer;
  2. what is final raises ServerError at once;
  3. no answer after the retries or at the deadline raises ServerDown.
"""

import asyncio
import json
import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from atlas_jax import retries
from atlas_jax.scrubbing import error_line, scrubber
from atlas_jax.serving import http
from atlas_jax.serving.http import ServerDown, ServerError

_NAN_LOGPROB = -9999.0  # what vLLM writes for a log-prob that is NaN or -inf
# Of JSON for one token: vLLM writes 80 to 200 bytes, with its log-prob.
_BYTES_A_TOKEN = 1024
_LOOK_S = 5.0  # until a server must have said how long its queue is
_QUEUE = re.compile(
  r"^vllm:num_requests_(running|waiting)\{.*\} (\d+\.\d+)$", re.M
)


@dataclass(frozen=True)
class Sampling:
  """How to sample. Sample i of n is drawn with seed + i."""

  max_tokens: int
  temperature: float
  n: int = 1
  seed: int = 0
  stop_token_ids: tuple[int, ...] = ()  # besides the model's own EOS


@dataclass(frozen=True)
class Completion:
  """One sampled answer.

  logprobs[i] is the log-prob of token_ids[i] under the distribution it was
  sampled from (temperature applied). The EOS token, if there is
  one, is part of token_ids. weight_version is that of the oldest weights that
  made any of the tokens; numbers come back as int.
  """

  text: str
  token_ids: tuple[int, ...]
  logprobs: tuple[float, ...]
  finish_reason: str  # stop | length
  weight_version: str | int


class Client:
  """Asks one server. Call `aclose` at the end.

  Args:
    base_url: such as http://127.0.0.1:8000.
    decode: token ids -> text, special tokens left out.
    timeout_s: deadline of one request, all of its attempts together, from
      the moment that it is sent (not while it waits for its turn).
    retries: attempts after the first.
    max_concurrency: requests under way at one time.
    api_key: the bearer token, where the server wants one.
  """

  def __init__(
    self,
    base_url: str,
    *,
    decode: Callable[[Sequence[int]], str],
    timeout_s: float,
    retries: int,
    max_concurrency: int,
    api_key: str | None = None,
  ):
    self.base_url = base_url.rstrip("/")
    self._decode = decode
    self._timeout_s = timeout_s
    self._retries = retries
    self._max_concurrency = max_concurrency
    self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    self._scrub = scrubber({}, api_key)
    self._session: aiohttp.ClientSession | None = None
    self._loop = None  # that of the session

  async def aclose(self) -> None:
    if self._session is not None:
      await self._session.close()
    self._session = self._loop = None

  async def _open(self) -> None:
    # A session belongs to one event loop; a caller may use asyncio.run often.
    loop = asyncio.get_running_loop()
    if self._loop is not loop:
      await self.aclose()
      self._session = http.open_session(
        headers=self._headers,
        limit=self._max_concurrency + 1,  # one for `queue`
      )
      self._turns = asyncio.Semaphore(self._max_concurrency)
      self._loop = loop

  async def generate(
    self,
    token_ids: Sequence[int],
    sampling: Sampling,
    *,
    cache_salt: str | None = None,
  ) -> list[Completion]:
    """Samples `sampling.n` continuations of a prompt.

    Args:
      token_ids: the prompt.
      sampling: lengths, temperature, seed.
      cache_salt: prompts share cached prefixes only under the same salt.

    Raises:
      ServerError: the server refuses the request, or a log-prob is NaN.
      ServerDown: no answer; see the module's rules.
    """
    params = {
      "n": sampling.n,
      "max_tokens": sampling.max_tokens,
      "temperature": sampling.temperature,
      "top_p": 1.0,
      "seed": sampling.seed,
      "logprobs": 0,
      "detokenize": False,
    }
    if sampling.stop_token_ids:
      params["stop_token_ids"] = list(sampling.stop_token_ids)
    body = {"token_ids": [int(t) for t in token_ids], "sampling_params": params}
    if cache_salt is not None:
      body["cache_salt"] = cache_salt

    def read(answer) -> list[Completion]:
      choices = sorted(answer["choices"], key=lambda c: c["index"])
      if len(choices) != sampling.n:
        raise ServerError(
          f"{self.base_url} returned {len(choices)} samples for n={sampling.n}"
        )
      return [self._completion(choice) for choice in choices]

    return await self._post(body, sampling.n * sampling.max_tokens, read)

  async def score(
    self, prompt_ids: Sequence[int], token_ids: Sequence[int]
  ) -> tuple[float, ...]:
    """Log-probs of given tokens after a prompt of one at least.

    At temperature 1. Raises as `generate`.
    """
    prompt_ids, token_ids = list(prompt_ids), list(token_ids)
    body = {
      "token_ids": [int(t) for t in prompt_ids + token_ids],
      "sampling_params": {
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
        "detokenize": False,
      },
    }

    def read(answer) -> tuple[float, ...]:
      rows = answer["prompt_logprobs"][len(prompt_ids) :]
      values = [
        row[str(token)]["logprob"]
        for row, token in zip(rows, token_ids, strict=True)
      ]
      return self._checked(values)

    return await self._post(body, len(body["token_ids"]), read)

  async def queue(self) -> dict[str, float]:
    """Requests of all its engines that are running and waiting; see vLLM.

    Empty where the server does not say.

    Raises:
      ServerError: it does not answer.
    """
    await self._open()
    url, content = f"{self.base_url}/metrics", b""
    try:
      async with (
        asyncio.timeout(_LOOK_S),
        http.request(self._session, "GET", url) as response,
      ):
        content = await http.read(response, http.MOST_BYTES)
    except (aiohttp.ClientError, OSError) as error:
      raise ServerError(f"{url}: {type(error).__name__}") from None
    lengths: dict[str, float] = {}
    for what, length in _QUEUE.findall(content.decode(errors="replace")):
      lengths[what] = lengths.get(what, 0.0) + float(length)
    return lengths

  def _checked(self, logprobs) -> tuple[float, ...]:
    for i, value in enumerate(logprobs):
      if value is None or not math.isfinite(value) or value <= _NAN_LOGPROB:
        raise ServerError(
          f"{self.base_url} returned the log-prob {value} for token {i}: its"
          " weights or its cache hold NaN"
        )
    return tuple(float(v) for v in logprobs)

  def _completion(self, choice) -> Completion:
    ids = tuple(choice["token_ids"])
    logprobs = self._checked(
      [entry["logprob"] for entry in choice["logprobs"]["content"]]
    )
    if len(ids) != len(logprobs):
      raise ServerError(
        f"{self.base_url} returned {len(ids)} tokens with"
        f" {len(logprobs)} log-probs"
      )
    if choice["finish_reason"] not in ("stop", "length"):
      raise ServerError(
        f"{self.base_url} ended a sample with"
        f" {choice['finish_reason']!r}, expected stop or length"
      )
    return Completion(
      text=self._decode(ids),
      token_ids=ids,
      logprobs=logprobs,
      finish_reason=choice["finish_reason"],
      weight_version=_oldest_version(choice["weight_versions"]),
    )

  async def _post(self, body, tokens: int, read: Callable):
    """read(JSON) of an answer with at most `tokens` tokens."""
    await self._open()
    url = f"{self.base_url}/inference/v1/generate"
    async with self._turns:
      try:
        async with asyncio.timeout(self._timeout_s):
          return await self._attempts(url, body, tokens, read)
      except TimeoutError:
        raise ServerDown(
          f"{url} gave no answer in {self._timeout_s:g} s"
        ) from None

  async def _attempts(self, url: str, body, tokens: int, read: Callable):
    most_bytes = http.MOST_BYTES + tokens * _BYTES_A_TOKEN
    for attempt in range(self._retries + 1):
      after = None
      try:
        async with http.request(
          self._session, "POST", url, json=body
        ) as response:
          content = await http.read(response, most_bytes)
          if response.status == 200:
            return read(json.loads(content))
          said = error_line(self._scrub, content.decode(errors="replace"))
          trouble = f"{response.status}: {said}"
          if not retries.may_pass(response.status):
            raise ServerError(f"{url} refused the request, {trouble}")
          after = retries.retry_after(response.headers)
      except http.Untaken as error:
        raise ServerError(f"{url}: {error}") from None
      except (*(aiohttp.ClientError, OSError), *http.NOT_THE_FORM) as error:
        trouble = f"{type(error).__name__}: {error}"
      if attempt < self._retries:
        pause = retries.pause_s(f"{url} {body}", attempt, after)
        logging.warning("%s failed (%s); again in %g s", url, trouble, pause)
        await asyncio.sleep(pause)
    raise ServerDown(
      f"{url} failed {self._retries + 1} times, the last with {trouble}"
    )


_NUMBER = re.compile("[0-9]{1,18}")  # isdigit would take a superscript two


def _oldest_version(spans) -> str | int:
  """The version of the first span: spans follow the tokens in time."""
  first = min(spans, key=lambda span: span["start"])["version"]
  return int(first) if _NUMBER.fullmatch(first) else first
