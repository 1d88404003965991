"""Engine ``krylov`` for voxels: tangents by Krylov methods in a reduced time basis."""
