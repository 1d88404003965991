"""Pharmacokinetic models of contrast agent, fitted to every voxel by itself."""
