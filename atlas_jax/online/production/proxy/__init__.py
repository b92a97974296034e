"""An OpenAI-compatible endpoint that teaches before any upstream answers."""
