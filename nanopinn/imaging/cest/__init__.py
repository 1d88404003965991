"""CEST-MRI: from Z-spectra to extracellular pH."""
