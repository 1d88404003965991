"""A hostile file ends a command with one paragraph and exit code 3, and no text of its header is
written to results.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nanopinn.cli import main
from tests.imaging.conftest import build_study
from tests.variants import for_each

from .hostile import volume

#: Texts that would be seen at once if they got anywhere: of the header's fields, of an extension,
#: and of the sidecar.
RUN_FOLDER_VARIABLE = "<script>alert('Jane Doe')</script>"
FOUND = (b"Jane", b"alert(", b"<script")


def ended(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["nanopinn", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda p: p.write_bytes(volume(p).read_bytes()[:-9]),
    "wrong magic": lambda p: p.write_bytes(volume(p).read_bytes().replace(b"n+1", b"n-1")),
    "32767 to the fourth": lambda p: volume(p, dim=[4, 32767, 32767, 32767, 32767, 1, 1, 1]),
    "NaN voxel sizes": lambda p: volume(p, pixdim=[1, np.nan, 1.2, 2, 7, 0, 0, 0]),
    "singular": lambda p: volume(p, srow_x=[0, 0, 0, 0], qform_code=0),
    "colour": lambda p: volume(p, datatype=128),
    "complex": lambda p: volume(p, datatype=32),
    "not a gzip": lambda p: p.write_bytes(b"\x1f\x8b" + os.urandom(500)),
    "a pipe": lambda p: os.mkfifo(p),
    "a loop": lambda p: p.symlink_to(p),
    "a device": lambda p: p.symlink_to("/dev/zero"),
}


@for_each("kind", HOSTILE)
def test_a_fit_of_a_hostile_volume_ends_with_3_and_one_paragraph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "a\nb <i>.nii"
    HOSTILE[kind](path)
    out = tmp_path / "out"
    assert (
        ended(
            [
                "fit",
                "--dce",
                str(path),
                "--t1",
                "1.4",
                "--assume-ph",
                "6.9",
                "--quiet",
                "--out",
                str(out),
            ],
            monkeypatch,
        )
        == 3
    )
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert said.err.startswith("a\\nb <i>.nii: ")
    assert "Traceback" not in said.err
    assert not out.exists()


def marked(path: Path) -> None:
    """The same volume with text wherever a header has room for it."""
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    again = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        again.header[field] = RUN_FOLDER_VARIABLE[: again.header[field].dtype.itemsize].encode()[
            : 17 if field in ("db_name", "intent_name") else 24
        ]
    for code in ("comment", "dicom", "xcede"):
        again.header.extensions.append(
            nib.nifti1.Nifti1Extension(
                "comment" if code == "dicom" else code, RUN_FOLDER_VARIABLE.encode()
            )
        )
    path.write_bytes(gzip.compress(again.to_bytes()))


def test_free_text_of_headers_and_sidecars_is_not_written_to_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = build_study(tmp_path)
    for path in tmp_path.glob("*.nii.gz"):
        marked(path)
        side = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
        told = json.loads(side.read_text()) if side.is_file() else {}
        more = dict.fromkeys(
            (
                "PatientName",
                "SeriesDescription",
                "ConversionSoftware",
                "Units",
                RUN_FOLDER_VARIABLE,
            ),
            RUN_FOLDER_VARIABLE,
        )
        side.write_text(json.dumps({**more, "ImageComments": [RUN_FOLDER_VARIABLE], **told}))
    out = tmp_path / "out"
    files = [
        "--dce",
        study.dce,
        "--mask",
        tmp_path / "mask.nii.gz",
        "--cest",
        tmp_path / "ph.nii.gz",
        "--vfa",
        *study.vfa,
    ]
    assert ended(["maps", *map(str, files), "--out", str(out), "--quiet"], monkeypatch) == 0
    said = capsys.readouterr()
    written = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert len(written) > 20
    texts = {
        path.name: gzip.decompress(raw) if path.name.endswith(".gz") else raw
        for path, raw in written.items()
    }
    texts |= {"stdout": said.out.encode(), "stderr": said.err.encode()}
    for name, raw in texts.items():
        assert not [word for word in FOUND if word in raw], name
