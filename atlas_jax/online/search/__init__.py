"""The search for better teaching prompts, from the config to the report."""
