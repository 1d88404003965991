"""Imaging-driven inverse modelling of tumour nanomedicine."""
