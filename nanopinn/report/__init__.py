"""The result folder and the report: what a fit leaves behind for its reader."""
