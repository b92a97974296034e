"""The online half: evolve the teaching of any agent, and serve it. No JAX."""

from atlas_jax.episode_config import TeachConfig
from atlas_jax.online.calls.model_config import Wording
from atlas_jax.online.production.teaching_agent import TeachingAgent

__all__ = ["TeachConfig", "TeachingAgent", "Wording"]
