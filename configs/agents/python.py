"""An agent that is a Python function of one str, sync or async. Try it:

  python -m launchers.agent_check --config=configs/agents/python.py \
      --config.python.target=path/to/file.py:function
"""

from atlas_jax.config import tree_of
from atlas_jax.online.agents.config import AgentConfig


def get_config():
  config = tree_of(AgentConfig())
  config.kind = "python"
  config.python.target = "my_agent:answer"
  # A process for each prompt, killed at the deadline, which loads the function.
  # False: in this process, where a function that hangs cannot be ended, and
  # prompts share what it keeps.
  config.python.own_process = True
  config.concurrency = 2
  return config
