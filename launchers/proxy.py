"""Serves an OpenAI-compatible endpoint that teaches before it answers.

  python -m launchers.proxy --config=configs/proxy.py \
      --config.upstream.url=http://127.0.0.1:8001/v1 \
      --config.teacher.url=http://127.0.0.1:8002/v1 \
      --config.teacher.model=teacher \
      --config.prompts_path=runs/evolve/best_prompts.json

A client sets its base URL to http://127.0.0.1:8080/v1. SIGTERM and Ctrl-C let
open requests end.
"""

import os

from . import common, config_flag

common.define_flags(workdir=False)


def main():
  from atlas_jax.config_tree import build
  from atlas_jax.online.production.app import serve
  from atlas_jax.online.production.config import ProxyConfig

  serve(build(ProxyConfig, config_flag.tree()), os.environ)


if __name__ == "__main__":
  common.launch(main)
