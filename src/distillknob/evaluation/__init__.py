"""What a model can do: its answers to the tasks' problems, graded, with intervals and failure modes."""
