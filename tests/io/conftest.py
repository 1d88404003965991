"""The small study of the imaging tests serves these too."""

from tests.imaging.conftest import own_study, study

__all__ = ["own_study", "study"]
