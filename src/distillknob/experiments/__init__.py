"""Experiments: cells of η × seed that chain the stages, their tables, and the demo and sweeps made of them."""
