"""Verification cases: the solvers beside analytic values, published values and reference runs."""
