"""An agent behind an HTTP endpoint. Try it:

  python -m launchers.agent_check --config=configs/agents/http.py \
      --config.http.url=http://127.0.0.1:8000/v1/chat/completions

As it stands it speaks to a server of the chat completions API; for an
endpoint of your own write the body that it wants, with {prompt} in any string.
"""

from atlas_jax.config import tree_of
from atlas_jax.online.agents.config import AgentConfig


def get_config():
  config = tree_of(AgentConfig())
  config.kind = "http"
  config.http.url = "http://127.0.0.1:8000/v1/chat/completions"
  # A secret is named, never written: {"Authorization": "Bearer ${AGENT_KEY}"}.
  config.http.headers = {}
  config.http.body = {
    "model": "agent",
    "messages": [{"role": "user", "content": "{prompt}"}],
  }
  config.http.answer = "choices[0].message.content"
  # So that a cut answer is not scored; the tokens are for the costs.
  config.http.finish_reason = "choices[0].finish_reason"
  config.http.prompt_tokens = "usage.prompt_tokens"
  config.http.completion_tokens = "usage.completion_tokens"
  return config
