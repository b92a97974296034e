"""One call of a model: by whom, at what cost, tried how often, kept where."""
