"""Hashes in the provenance are those of the bytes that were read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from nanopinn.errors import InputError
from nanopinn.io.tables import check_files_unchanged, hash_files


def test_files_of_one_name_and_their_sidecars_are_all_hashed(tmp_path: Path) -> None:
    files = [tmp_path / "a" / "fit.nii.gz", tmp_path / "b" / "fit.nii.gz"]
    for i, file in enumerate(files):
        file.parent.mkdir()
        file.write_bytes(bytes([i]))
    (tmp_path / "a" / "fit.json").write_text("{}")
    found = hash_files([*files, files[0], tmp_path / "absent"])
    assert list(found) == ["fit.nii.gz", "fit.json", "fit.nii.gz (2)"]
    assert list(found.values()) == [
        hashlib.sha256(content).hexdigest() for content in (b"\0", b"{}", b"\1")
    ]


@pytest.mark.parametrize("what", ["changed", "removed", "new"])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, what: str) -> None:
    scan, side = tmp_path / "dce.nii.gz", tmp_path / "dce.json"
    scan.write_bytes(b"scan")
    if what != "new":
        side.write_text("{}")
    before = hash_files([scan])
    check_files_unchanged(before, [scan])
    side.unlink() if what == "removed" else side.write_text('{"FlipAngle": 20}')
    with pytest.raises(InputError, match=rf"dce\.json: the file was changed.*found: {what}"):
        check_files_unchanged(before, [scan])
