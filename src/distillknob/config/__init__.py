"""How recipes and flags become a stage's config: its fields, what they may hold, and the recipes shipped here."""
