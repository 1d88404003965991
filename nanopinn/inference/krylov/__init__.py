"""Engine ``krylov``: tangents by preconditioned Krylov solutions in a reduced time basis."""
