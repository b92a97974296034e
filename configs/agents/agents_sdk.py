"""An Agent of the OpenAI Agents SDK, with its tools and handoffs. Try it:

  pip install -e '.[agents]'
  python -m launchers.agent_check --config=configs/agents/agents_sdk.py \
      --config.agents_sdk.target=path/to/file.py:agent

Its traces are not sent to OpenAI. A local server for its models:
  --config.agents_sdk.base_url=http://127.0.0.1:8000/v1 \
  --config.agents_sdk.api=chat_completions
"""

from atlas_jax.config import tree_of
from atlas_jax.online.agents.config import AgentConfig


def get_config():
  config = tree_of(AgentConfig())
  config.kind = "agents_sdk"
  config.agents_sdk.target = "my_agent:agent"
  config.agents_sdk.api_key_env = "OPENAI_API_KEY"
  config.agents_sdk.max_turns = 10
  # A run is several model calls, each with tools between.
  config.timeout_s = 300.0
  return config
