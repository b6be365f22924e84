"""The command line: parsing flags, calling a stage, and showing its result."""
