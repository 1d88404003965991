"""Work that grows beyond one run, as workflows of Snakemake that call the command line: how they are started, watched and told about."""
