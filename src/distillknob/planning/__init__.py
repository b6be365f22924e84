"""The dry run: what a run would do, hold and take on a device, and which settings would make it fit."""
