"""Models in this process: how they sample and score by transformers."""
