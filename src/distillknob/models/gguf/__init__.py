"""Models in GGUF files: their headers, what they become, and where that is kept."""
