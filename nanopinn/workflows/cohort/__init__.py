"""Cohorts: the studies of a dataset, their results under BIDS names, and what they say together."""

from nanopinn.workflows.cohort.studies import CohortStudy, find_studies

__all__ = ["CohortStudy", "find_studies"]
