"""Treatment arms compared in one tumour."""
