"""An agent that is a command: no shell, one process a prompt. Try it:

  python -m launchers.agent_check --config=configs/agents/cli.py \
      --config.cli.argv="('my-agent', '--quiet')"
"""

from atlas_jax.config import tree_of
from atlas_jax.online.agents.config import AgentConfig


def get_config():
  config = tree_of(AgentConfig())
  config.kind = "cli"
  config.cli.argv = ("my-agent", "--quiet")
  # Or "file" with {prompt_file} in argv, or "argument" with {prompt} there
  # (then prompts must be shorter than 128 KiB, and where the command reads
  # options, "--" goes before it: a prompt may begin with "-").
  config.cli.prompt_by = "stdin"
  # Where it runs; None: an empty directory of its own for each prompt.
  config.cli.directory = None
  # It gets PATH, HOME, LANG, LC_ALL and TMPDIR; name what else it may have.
  config.cli.env = ()
  config.concurrency = 2
  return config
