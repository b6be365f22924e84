"""Engines: what else than transformers samples and scores a model whose weights are in this process."""
