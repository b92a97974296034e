"""Agents behind the OpenAI Responses API."""

from atlas_jax.config import ConfigError
from atlas_jax.online.agents.asking import (
  Attempt,
  answered,
  failed,
  late,
)
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.agents.credentials import (
  HIDDEN,
  Credentials,
  each_string,
  masked,
)
from atlas_jax.online.calls import httpx_policy, told_errors
from atlas_jax.online.calls.calls import refused

_TRANSIENT_CODES = ("server_error", "rate_limit_exceeded")


class ResponsesAgent:
  """One model or stored prompt; a response a prompt, without history.

  Raises:
    ConfigError: the package or the key's variable is missing.
  """

  repeats = True

  def __init__(self, config: AgentConfig, where: str, credentials: Credentials):
    try:
      import openai
    except ImportError as error:
      raise ConfigError(
        f"{where}: the openai package does not import ({error}); install it"
        " with: pip install -e '.[agents]'"
      ) from error

    responses = config.responses
    self._config = responses
    self._extra = credentials.fill_all(responses.extra, f"{where}.extra")
    self._client = openai.AsyncOpenAI(
      api_key=credentials.key(responses.api_key_env, where),
      base_url=responses.base_url,
      max_retries=0,
      timeout=config.timeout_s,
      http_client=httpx_policy.bind(openai.DefaultAsyncHttpxClient()),
    )
    self._most_bytes = config.max_response_bytes
    # OPENAI_BASE_URL may be where it is from, with a password.
    self._url = self._client.base_url.copy_with(userinfo=b"", query=None)
    self.target = f"{responses.model or 'prompt'} at {self._url}"

  def _request(self, prompt: str, extra: dict) -> dict:
    config = self._config
    optional = {
      name: getattr(config, name)
      for name in ("model", "instructions", "max_output_tokens", "temperature")
      if getattr(config, name) is not None
    }
    return {**optional, **extra, "input": prompt}

  def shown(self, prompt: str) -> dict:
    return {
      "url": f"{self._url}responses",
      "headers": {"Authorization": f"Bearer {HIDDEN}"},
      "body": self._request(prompt, each_string(self._config.extra, masked)),
    }

  async def send(self, prompt: str) -> Attempt:
    import openai

    httpx_policy.Taking(self._most_bytes)
    try:
      response = await self._client.responses.create(
        **self._request(prompt, self._extra)
      )
    except openai.APITimeoutError:
      return late("no answer at the client's deadline")
    except openai.APIConnectionError as error:
      cause = error.__cause__ or error
      return failed(f"{type(cause).__name__}: {cause}", again=True)
    except openai.APIStatusError as error:
      headers = error.response.headers
      raise refused(error.status_code, error.message, headers) from None
    except (
      openai.OpenAIError,
      ValueError,
      TypeError,
      RecursionError,
    ) as error:
      # Not JSON, or options that the client does not know.
      return failed(
        f"{type(error).__name__}: {error}",
        again=not isinstance(error, TypeError),
      )
    try:
      return _read(response)
    except (AttributeError, TypeError) as error:
      # The client builds what it is sent unchecked: anything may be missing.
      return failed(f"the reply is no response: {error}", again=True)

  async def aclose(self) -> None:
    await self._client.close()


def _read(response) -> Attempt:
  output = getattr(response, "output", None)
  if not isinstance(output, list):
    body = {} if isinstance(response, str) else response.to_dict()
    if (told := told_errors.of_json(body, "HTTP 200")) is not None:
      raise told
    return failed("the reply is no response: it has no output", again=True)
  status = response.status
  if status in ("failed", "cancelled") or response.error:
    code = getattr(response.error, "code", None)
    message = getattr(response.error, "message", "")
    return failed(
      f"response {status}: {code}: {message}",
      again=code in _TRANSIENT_CODES,
    )
  if status not in ("completed", "incomplete"):
    return failed(f"the response is {status!r}, not completed")
  contents = [
    content
    for item in output
    if item.type == "message"
    for content in item.content
  ]
  refusals = [c.refusal for c in contents if c.type == "refusal"]
  if refusals:
    return failed(f"refused: {' '.join(refusals)}")
  reason = getattr(response.incomplete_details, "reason", None)
  if status == "incomplete" and reason != "max_output_tokens":
    return failed(f"the response is incomplete: {reason}")
  usage = response.usage
  return answered(
    response.output_text,
    f"response {status}, output_text of {len(output)} output items",
    finish_reason=reason,
    usage=usage and usage.model_dump(),
    empty_is_transient=True,
  )
