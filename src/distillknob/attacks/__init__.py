"""Attacks: what an extractor with given queries, data and interface gets from a teacher. One file an attack."""
