"""The proxy: an upstream that clients know, a teacher in front of it.

  python -m launchers.proxy --config=configs/proxy.py \
      --config.upstream.url=http://127.0.0.1:8001/v1 \
      --config.teacher.url=http://127.0.0.1:8002/v1 \
      --config.teacher.model=teacher

Every key and its default: atlas_jax/online/production/config.py.
"""

from atlas_jax.config import tree_of
from atlas_jax.online.production.config import ProxyConfig


def get_config():
  return tree_of(ProxyConfig())
