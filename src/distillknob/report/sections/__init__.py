"""Each file of this room makes one part of the page from what a run holds."""
