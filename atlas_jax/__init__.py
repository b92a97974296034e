"""ATLAS in JAX: a teacher model learns to teach a frozen student."""

# pyproject.toml reads it here.
__version__ = "0.1.0"
