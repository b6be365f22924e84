"""What calibration rewards: one file each. `choice` makes the one that a config names."""
