"""Teaching in production: a proxy, and an agent for Python programs."""
