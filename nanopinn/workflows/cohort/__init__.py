"""Cohorts: the studies of a dataset, their results under BIDS names, and what they say together."""

from nanopinn.workflows.cohort.studies import Study, find_studies

__all__ = ["Study", "find_studies"]
