"""What runs inside the vLLM process: new weights for a running server."""
