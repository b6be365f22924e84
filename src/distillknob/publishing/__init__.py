"""What a finished model is published with: its card, and the upload to the hub."""
