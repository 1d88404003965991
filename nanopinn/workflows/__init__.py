"""Compositions of the rooms: what the command line, the napari plugin and scripts call."""
