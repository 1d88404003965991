"""Unknowns with priors, observations, the engines, and the check of their answer."""
