"""Files: NIfTI, DICOM, tables, transactional output, serialisation; the only room that opens a file
for the rooms above.
"""
