"""Fingerprints: was a student distilled from this teacher? A keyed green list, and the tests that look for it."""
