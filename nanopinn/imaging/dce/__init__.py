"""DCE-MRI: from signal to kinetic maps."""
