"""The online half: evolve the teaching of any agent, and serve it. No JAX."""

from atlas_jax.episode_config import TeachConfig
from atlas_jax.online.teaching_agent import TeachingAgent
from atlas_jax.online.url_calls import Wording

__all__ = ["TeachConfig", "TeachingAgent", "Wording"]
