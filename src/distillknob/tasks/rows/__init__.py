"""Tasks made of the rows of a data set, from the hub or from one's own files: reading them, and what they say."""
