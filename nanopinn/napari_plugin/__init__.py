"""The napari plugin: a face of the package. It calls public functions in a process of its own and
shows what they wrote.
"""
