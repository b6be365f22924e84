"""Graders: what a completion answers, and whether that is the reference."""
