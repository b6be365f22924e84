"""This room answers, on top of a page, what a reader comes with: a line or two a question, each with one figure."""
