"""Finite volumes on the voxel grid: fluxes, linear solves, steady pressure, pools in time."""
