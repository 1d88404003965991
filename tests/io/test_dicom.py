"""A folder in place of a series: dcm2niix's output, DICOM that it converts, and folders that hold
neither.
"""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from nanopinn.errors import InputError
from nanopinn.imaging.imaging_data import ImagingInputs
from nanopinn.imaging.pipeline import make_maps
from nanopinn.io.dicom import list_scan_files, open_series

from ..imaging.conftest import FLIP_DEG, TR_S, Study, save

pytestmark = pytest.mark.dce


@pytest.fixture
def converted(own_study: Study) -> Path:
    """Output of dcm2niix for the small study: its own sidecar keys, and a scout scan beside."""
    folder = own_study.folder / "converted"
    folder.mkdir()
    shutil.copy(own_study.dce, folder / "series_5.nii.gz")
    side = {
        "ConversionSoftware": "dcm2niix",
        "RepetitionTime": TR_S,
        "FlipAngle": FLIP_DEG,
        "MagneticFieldStrength": 3,
        "VolumeTiming": own_study.frame_times.tolist(),
    }
    (folder / "series_5.json").write_text(json.dumps(side))
    save(folder / "series_1_scout.nii.gz", np.ones((8, 8, 3)), np.eye(4))
    return folder


def test_the_series_of_a_converted_folder_is_found_with_its_repetition_time(
    own_study: Study, converted: Path
) -> None:
    maps = make_maps(ImagingInputs(**own_study.given(dce=converted)))
    inside = own_study.mask
    np.testing.assert_allclose(maps.ktrans_per_min[inside], own_study.Ktrans[inside], rtol=0.02)
    assert any("dcm2niix" in a and "excitation TR" in a for a in maps.assumptions)


def test_two_series_in_a_folder_are_refused_by_their_names(
    own_study: Study, converted: Path
) -> None:
    shutil.copy(own_study.dce, converted / "series_6.nii.gz")
    with pytest.raises(InputError) as caught, open_series(converted):
        pass
    assert "series_5.nii.gz" in str(caught.value)
    assert "series_6.nii.gz" in str(caught.value)


def test_without_dcm2niix_a_dicom_folder_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with (
        pytest.raises(InputError, match="dcm2niix is not installed") as caught,
        open_series(tmp_path),
    ):
        pass
    assert "Install dcm2niix" in str(caught.value)


def test_dcm2niix_converts_a_dicom_folder_without_leftovers(
    own_study: Study, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for dcm2niix that takes its arguments and writes the study where it is told to."""
    dicom, tools = tmp_path / "dicom", tmp_path / "tools"
    dicom.mkdir()
    tools.mkdir()
    (dicom / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    script = tools / "dcm2niix"
    script.write_text(f'#!/bin/sh\necho "dcm2niiX version v1.0"\ncp {converted}/series_5.* "$8"\n')
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with open_series(dicom) as (path, notes):
        assert path.is_file()
        assert "dcm2niiX version v1.0" in notes[0]
    assert not path.exists()
    assert list_scan_files(dicom) == [dicom / "IM0001"]


def test_a_failed_dicom_conversion_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "IM0001").write_bytes(b"no dicom")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "dcm2niix").write_text("#!/bin/sh\nexit 2\n")
    (tools / "dcm2niix").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(InputError, match="could not convert"), open_series(tmp_path):
        pass
