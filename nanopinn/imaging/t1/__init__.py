"""Native T1: from flip angles, from inversion times, from a map, or stated."""
