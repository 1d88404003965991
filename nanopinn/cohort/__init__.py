"""Cohorts: many studies, their results in BIDS names, group statistics, Snakemake workflows."""
