"""The report's sections: each file makes one part of the page from what a run holds."""
