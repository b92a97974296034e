"""The online half: evolve the teaching of any agent, and serve it. No JAX."""

from atlas_jax.episode_config import TeachConfig
from atlas_jax.online.teaching_agent import TeachingAgent

__all__ = ["TeachConfig", "TeachingAgent"]
