"""The vLLM servers: starting them, asking them, giving them new weights."""
