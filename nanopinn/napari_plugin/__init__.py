"""The napari plugin: it runs the package in a worker process and shows the results as layers."""
