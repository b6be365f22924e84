"""Losses of distillation: one object each, which says what it needs and gives its value from a view of a batch."""
