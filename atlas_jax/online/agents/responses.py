"""Agents behind the OpenAI Responses API: HTTP with a body of its own."""

import json

from atlas_jax import addresses
from atlas_jax.config import ConfigError
from atlas_jax.online.agents.config import PROMPT, AgentConfig
from atlas_jax.online.agents.http import HttpAgent
from atlas_jax.online.calls import told_errors
from atlas_jax.online.calls.calls import Answer, CallFailed
from atlas_jax.online.calls.chat_json import parsed, used
from atlas_jax.online.calls.cleaning import cleaned
from atlas_jax.online.calls.variables import Credentials

_OPENAI = "https://api.openai.com/v1"
_CUT = "max_output_tokens"
_FIXED = ("model", "instructions", "max_output_tokens", "temperature")


def open_responses(
  config: AgentConfig, where: str, credentials: Credentials
) -> HttpAgent:
  """One model or stored prompt; a response a prompt, without history.

  Raises:
    ConfigError: a variable is missing, or OPENAI_BASE_URL is no address.
  """
  keys = config.responses
  base = keys.base_url or credentials.environ.get("OPENAI_BASE_URL") or _OPENAI
  if problem := addresses.problem(base):
    raise ConfigError(f"{where}: the variable OPENAI_BASE_URL {problem}")
  base = base.rstrip("/").removesuffix("/responses")
  # As the stock client takes them, beside the body.
  extra = dict(keys.extra)
  more = {p: extra.pop(f"extra_{p}", {}) for p in ("headers", "query", "body")}
  template = json.dumps(
    {
      "method": "POST",
      "url": f"{base}/responses",
      "headers": more["headers"],
      "query": more["query"],
      "body": extra | more["body"] | {"input": PROMPT},
    }
  )
  fixed = {n: getattr(keys, n) for n in _FIXED if getattr(keys, n) is not None}
  return HttpAgent(
    target=f"{keys.model or 'prompt'} at {base}/",
    sent=credentials.fill(template, where),
    fixed=fixed,
    read=_read,
    key=credentials.key(keys.api_key_env, where),
    most_bytes=config.max_response_bytes,
  )


def _read(how: str, kind: str, content: bytes) -> Answer:
  body = parsed(content)
  if (told := told_errors.of_json(body, how)) is not None:
    raise told
  try:
    status, output = body["status"], body["output"]
    reason = (body.get("incomplete_details") or {}).get("reason")
    said = [
      part for i in output if i["type"] == "message" for part in i["content"]
    ]
    refusals = [part["refusal"] for part in said if part["type"] == "refusal"]
    texts = [part["text"] for part in said if part["type"] == "output_text"]
    text = "".join(texts)
  except (AttributeError, LookupError, TypeError) as error:
    raise CallFailed(f"the reply is no response: {error!r}") from None
  if refusals:
    raise CallFailed(f"refused: {refusals[0]}", again=False, declined=True)
  if status != "completed" and (status, reason) != ("incomplete", _CUT):
    what = f"the response is {status!r}, not completed: {reason}"
    raise CallFailed(what, again=False)
  return Answer(
    cleaned(text),
    reason,
    *used(body.get("usage")),
    read=f"response {status}, output_text of {len(output)} output items",
  )
