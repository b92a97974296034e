"""The decoder, its attention and log-probs, and Hugging Face weights."""
