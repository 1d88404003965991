"""Arms of treatment through one tumour: what is given, what is not known, what reaches cells far from vessels."""
