"""The online half: evolve the teaching of any agent, and serve it. No JAX."""
