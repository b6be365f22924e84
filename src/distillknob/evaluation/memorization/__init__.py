"""Which training texts models go on with word for word, and which of them a student has from its teacher."""
