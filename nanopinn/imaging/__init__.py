"""Volumes in, maps out: reading, acquisition, T1, concentration, arterial input, kinetics, pH, masks."""
