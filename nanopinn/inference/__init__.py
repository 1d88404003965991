"""Inverse problems: unknowns with priors, observations, engines, uncertainty, and the finite-volume
check.
"""
