"""This room says what `result.json` holds: a type for each stage's result and its rows, the schema's version, and the
readers."""
