"""The command line: parsing flags, calling a stage, and showing what it found."""
