"""Engine ``pinn`` for systems of ordinary differential equations: an inverse physics-informed
neural network (PINN).
"""
