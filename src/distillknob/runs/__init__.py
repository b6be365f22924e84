"""A run directory holds what a run was told, wrote and measured, and the proof that nothing has changed since."""
