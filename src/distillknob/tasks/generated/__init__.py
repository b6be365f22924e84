"""Tasks whose problems are made up by rule: mathematics, knowledge questions, open-ended instructions."""
