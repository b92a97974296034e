"""Agents of the OpenAI Agents SDK, with their tools, handoffs and MCP servers.

A run is not repeated as a whole, since its tools may have had effects; its
model calls are retried. Its traces stay here: the SDK would send them, with
every prompt, to OpenAI. It drops why a model stopped, so that is read from the
replies of the client that we give it; an agent that brings its own model is
never seen to be cut.

No prompt finds what another left: a function makes an agent for each, and MCP
servers are connected for each. Those of an agent that is an object are the
same objects each time, so it is asked one prompt at a time.
"""

import asyncio
import contextlib
import contextvars
import json
from collections.abc import Iterator

from atlas_jax import targets
from atlas_jax.config import ConfigError
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.calls import functions, httpx_policy
from atlas_jax.online.calls.calls import Answer, CallFailed, Request, Transport
from atlas_jax.online.calls.chat_json import used
from atlas_jax.online.calls.cleaning import cleaned
from atlas_jax.online.calls.variables import Credentials

# A server without a key must not be sent OpenAI's.
_NO_KEY = "none"
_CLEANUP_S = 5.0
# Why each model call of the run in this context ended.
_ENDINGS: contextvars.ContextVar[list[str | None]] = contextvars.ContextVar(
  "endings"
)


class SdkAgent(Transport):
  """An Agent object, or what a function without arguments, maybe async, makes.

  Raises:
    ConfigError: the package is missing, the target is neither, or the key's
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
    sdk = self._config = config.agents_sdk
    self.target = sdk.target
    self._agent = targets.load(sdk.target, f"{where}.target")
    self._is_object = isinstance(self._agent, agents.Agent)
    if not self._is_object and not callable(self._agent):
      raise ConfigError(
        f"{where}.target={sdk.target!r} is {type(self._agent).__name__},"
        " neither an agents.Agent nor a function that makes one"
      )
    self._in_use = set()  # ids of MCP servers
    shared = self._is_object and any(_servers(self._agent))
    self.at_once = 1 if shared else config.concurrency
    self._most_bytes = config.max_response_bytes
    # Of an agent that says nothing of a server.
    httpx_policy.bind(openai_provider.shared_http_client())
    self._client = None
    self._run = agents.RunConfig(tracing_disabled=True)
    if sdk.base_url is not None or sdk.api_key_env is not None:
      self._client = _connected(config, where, credentials)
      self._run.model_provider = agents.MultiProvider(
        openai_client=self._client,
        openai_use_responses=sdk.api == "responses",
        # Local servers have names with a slash.
        unknown_prefix_mode="model_id",
      )

  async def send(self, request: Request) -> Answer:
    httpx_policy.Taking(self._most_bytes)
    endings = []
    _ENDINGS.set(endings)
    async with contextlib.AsyncExitStack() as stack:
      result = await self._result(request.prompt, stack)
    if result.interruptions:
      raise CallFailed(
        "the run waits for a person to approve a tool", again=False
      )
    usage = result.context_wrapper.usage
    return Answer(
      _text(result.final_output),
      endings[-1] if endings else None,
      *used(vars(usage) if usage.total_tokens > 0 else None),
      read=f"final_output of {result.last_agent.name} after"
      f" {len(result.raw_responses)} model calls",
    )

  async def _result(self, prompt: str, stack: contextlib.AsyncExitStack):
    import agents

    agent = self._agent
    if not self._is_object:
      agent = await functions.call(agent)
      if not isinstance(agent, agents.Agent):
        kind = type(agent).__name__
        raise CallFailed(f"{self.target} made {kind}, no Agent", again=False)
    for at, server in {id(one): one for one in _servers(agent)}.items():
      if at in self._in_use:
        whose = "MCP servers that another prompt uses: it must make new ones"
        raise CallFailed(f"{self.target} gave {whose}", again=False)
      self._in_use.add(at)
      stack.callback(self._in_use.discard, at)
      stack.push_async_callback(_cleaned_up, server)
      # An async function may have connected it.
      if getattr(server, "session", None) is None:
        await server.connect()
    return await agents.Runner.run(
      agent, prompt, max_turns=self._config.max_turns, run_config=self._run
    )

  async def aclose(self) -> None:
    if self._client is not None:
      await self._client.close()


def _connected(config: AgentConfig, where: str, credentials: Credentials):
  import openai

  sdk = config.agents_sdk
  base = sdk.base_url and sdk.base_url.rstrip("/")
  for path in ("/chat/completions", "/responses"):
    base = base and base.removesuffix(path)
  return openai.AsyncOpenAI(
    api_key=credentials.key(sdk.api_key_env, where) or _NO_KEY,
    base_url=base,
    max_retries=config.retries,
    timeout=config.timeout_s,
    http_client=httpx_policy.bind(
      openai.DefaultAsyncHttpxClient(event_hooks={"response": [_note_ending]})
    ),
  )


def _servers(agent) -> Iterator:
  """The MCP servers of an agent and of all that it may give the word to."""
  agents = [agent]
  for one in agents:
    yield from one.mcp_servers
    found = [getattr(tool, "_agent_instance", None) for tool in one.tools]
    for handoff in one.handoffs:
      refers = getattr(handoff, "_agent_ref", None)
      found.append(handoff if refers is None else refers())
    for other in found:
      if hasattr(other, "mcp_servers") and all(other is not a for a in agents):
        agents.append(other)


async def _cleaned_up(server) -> None:
  """Ends an MCP server; one that does not end in time is left behind."""
  with contextlib.suppress(TimeoutError):
    async with asyncio.timeout(_CLEANUP_S):
      await server.cleanup()


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
  _ENDINGS.get().append(reason)


def _text(output) -> str:
  """The final output as text; structured output as JSON."""
  if output is None or isinstance(output, str):
    return cleaned(output or "")
  from pydantic import TypeAdapter

  return TypeAdapter(type(output)).dump_json(output).decode()
