"""Files and volumes in memory: NIfTI, DICOM, tables, atomic output, serialisation."""
