"""Quantitative MRI: acquisition, T1, concentration, arterial input, kinetic maps, pH, masks,
registration.
"""
