"""Agents of the OpenAI Agents SDK, with their tools and handoffs.

A run is not repeated as a whole, since its tools may have had effects; its
model calls are retried. Its traces stay here: the SDK would send them, with
every prompt, to OpenAI. It drops why a model stopped, so that is read from the
replies of the client that we give it; an agent that brings its own model is
never seen to be cut.
"""

import asyncio
import contextvars
import json

from atlas_jax import targets
from atlas_jax.config import ConfigError
from atlas_jax.online.agents.asking import Attempt, answered, failed
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.agents.credentials import Credentials
from atlas_jax.online.calls import httpx_policy

_TOOLS = ("tool_calls", "function_call")
# Why each model call of the run in this context ended; None: as it should.
_ENDINGS: contextvars.ContextVar[list[str | None]] = contextvars.ContextVar(
  "endings"
)


class SdkAgent:
  """An Agent object, or what a function without arguments makes.

  Raises:
    ConfigError: the package is missing, the target is no agent, or the key's
      variable is missing.
  """

  repeats = False  # neither the whole run, nor one that was late

  def __init__(self, config: AgentConfig, where: str, credentials: Credentials):
    try:
      import agents
      from agents.models import openai_provider
    except ImportError as error:
      raise ConfigError(
        f"{where}: the OpenAI Agents SDK does not import ({error}); install"
        " it with: pip install -e '.[agents]'"
      ) from error
    sdk = config.agents_sdk
    agent = targets.load(sdk.target, f"{where}.target")
    if not isinstance(agent, agents.Agent) and callable(agent):
      agent = agent()
    if not isinstance(agent, agents.Agent):
      raise ConfigError(
        f"{where}.target={sdk.target!r} is {type(agent).__name__}, neither an"
        " agents.Agent nor a function that makes one"
      )
    self._agent = agent
    self._config = sdk
    self._credentials = credentials
    self._client = None
    self._most_bytes = config.max_response_bytes
    # Of an agent that says nothing of a server.
    httpx_policy.bind(openai_provider.shared_http_client())
    self._run = agents.RunConfig(tracing_disabled=True)
    if sdk.base_url is not None or sdk.api_key_env is not None:
      self._client = self._connect(config, where)
      self._run.model_provider = agents.MultiProvider(
        openai_client=self._client,
        openai_use_responses=sdk.api == "responses",
        # Local servers have names with a slash.
        unknown_prefix_mode="model_id",
      )
    self.target = sdk.target

  def _connect(self, config: AgentConfig, where: str):
    import openai

    sdk = config.agents_sdk
    return openai.AsyncOpenAI(
      api_key=self._credentials.key(sdk.api_key_env, where),
      base_url=sdk.base_url,
      max_retries=config.retries,
      timeout=config.timeout_s,
      http_client=httpx_policy.bind(
        openai.DefaultAsyncHttpxClient(event_hooks={"response": [_note_ending]})
      ),
    )

  def shown(self, prompt: str) -> dict:
    agent = self._agent
    return {
      "target": self.target,
      "agent": agent.name,
      "tools": [tool.name for tool in agent.tools],
      "handoffs": [getattr(h, "name", str(h)) for h in agent.handoffs],
      "max_turns": self._config.max_turns,
      "input": prompt,
    }

  async def send(self, prompt: str) -> Attempt:
    import agents

    httpx_policy.Taking(self._most_bytes)
    endings = []
    _ENDINGS.set(endings)
    try:
      result = await agents.Runner.run(
        self._agent,
        prompt,
        max_turns=self._config.max_turns,
        run_config=self._run,
      )
    except asyncio.CancelledError:
      raise
    except Exception as error:
      # Of the SDK, of the client, or of a tool: in each case no answer.
      return failed(f"{type(error).__name__}: {error}")
    if result.interruptions:
      return failed("the run waits for a person to approve a tool")
    usage = result.context_wrapper.usage
    known = usage.total_tokens > 0
    return answered(
      _text(result.final_output),
      f"final_output of {result.last_agent.name} after"
      f" {len(result.raw_responses)} model calls",
      finish_reason=endings[-1] if endings else None,
      usage=vars(usage) if known else None,
    )

  async def aclose(self) -> None:
    if self._client is not None:
      await self._client.close()


async def _note_ending(response) -> None:
  """Keeps the finish_reason of a chat completion, or of a response."""
  await response.aread()
  try:
    value = json.loads(response.content)
    if "choices" in value:
      reason = value["choices"][0]["finish_reason"]
    else:
      reason = (value["incomplete_details"] or {"reason": None})["reason"]
  except (ValueError, LookupError, TypeError, RecursionError):
    return  # no answer of a model; the client says what is wrong with it
  # A run may end with what a tool gave, if its agent says so.
  _ENDINGS.get().append(None if reason in _TOOLS else reason)


def _text(output) -> str | None:
  """The final output as text; structured output as JSON."""
  if output is None or isinstance(output, str):
    return output
  from pydantic import TypeAdapter

  return TypeAdapter(type(output)).dump_json(output).decode()
