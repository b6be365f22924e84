"""The traps of a distillation: each file turns scored tensors into a `Finding` and never sees a model."""
