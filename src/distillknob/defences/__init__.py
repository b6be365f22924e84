"""Defences beside the knob, behind one protocol. One file a defence."""
