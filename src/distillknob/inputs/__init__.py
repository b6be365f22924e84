"""What a run reads, looked at before any work: whether it can be used, and which content it has."""
