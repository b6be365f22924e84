"""Language models: loading them, sampling from them, and the log-probabilities that they give to texts."""
