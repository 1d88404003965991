"""The digital phantom: a synthetic study with its truth."""
