"""The physics as plain functions of named arguments; no grid, no device, no file."""
