"""Finite volumes, linear solvers, time integration, Krogh cylinders, systems of equations."""
