"""Turning the knob: fine-tuning a teacher towards or away from a calibration target, under a utility guard."""
