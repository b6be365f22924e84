"""A teacher stored on disk: its traces and the log-probabilities of its likeliest tokens."""
