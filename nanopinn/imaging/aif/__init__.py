"""Arterial input: population curves, measured curves, and curves found in the images."""
