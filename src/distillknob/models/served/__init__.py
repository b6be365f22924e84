"""Models behind a server, which sample and score by HTTP as a loaded one does here."""
