"""Engine ``pinn``: an inverse physics-informed neural network on the voxel lattice."""

from nanopinn.inference.pinn.engine import fit_pinn

__all__ = ["fit_pinn"]
