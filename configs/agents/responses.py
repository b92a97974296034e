"""An agent behind the OpenAI Responses API. Try it:

  OPENAI_API_KEY=... python -m launchers.agent_check \
      --config=configs/agents/responses.py --config.responses.model=gpt-5-mini

It takes the place of the Assistants API: an assistant's instructions go here,
its tools into config.responses.extra.
"""

from atlas_jax.config import tree_of
from atlas_jax.online.agents.config import AgentConfig


def get_config():
  config = tree_of(AgentConfig())
  config.kind = "responses"
  config.responses.model = "gpt-5-mini"
  config.responses.instructions = "Answer in as few words as the task allows."
  # As client.responses.create takes them: tools, reasoning, prompt, ...
  config.responses.extra = {}
  return config
