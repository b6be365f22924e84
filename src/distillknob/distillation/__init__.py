"""Training a student on a teacher: the grid of methods, the traces, the losses and the learning curve."""
