"""Divergences between next-token distributions and between sequences: the only ones computed here."""
