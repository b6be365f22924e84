"""This room turns run directories into one self-contained HTML page."""
