"""Uncertainty of a fit: Laplace approximation, profile likelihood, sampling, identifiability,
experimental design.
"""
