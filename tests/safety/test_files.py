"""Only regular files are opened by any reader."""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanopinn.cli.config import build_settings
from nanopinn.errors import InputError
from nanopinn.imaging.cest.agent import load_agent
from nanopinn.imaging.cest.calibration import read_calibration
from nanopinn.imaging.dce.aif import read_curve
from nanopinn.inference.saved_fit import load_fit
from nanopinn.io import safe_open as given
from nanopinn.io.dicom import list_scan_files, open_series
from nanopinn.io.volumes import read_array, read_sidecar
from nanopinn.settings import FitSettings
from nanopinn.studies.schedule import read_formulation, read_schedule
from tests.variants import for_each

from .hostile import DATA, refused, volume

READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "volume": ("a.nii", read_array),
    "packed volume": ("a.nii.gz", read_array),
    "sidecar": ("a.json", lambda p: read_sidecar(p.with_suffix(".nii"))),
    "arterial input": ("aif.tsv", lambda p: read_curve(p, np.arange(9.0), 0.42)),
    "schedule": ("schedule.toml", read_schedule),
    "formulation": ("own.toml", read_formulation),
    "calibration": ("line.toml", read_calibration),
    "agent": ("agent.toml", load_agent),
    "configuration": ("config.toml", lambda p: build_settings(FitSettings, "fit", p, {})),
    "saved fit": ("fit.safetensors", load_fit),
}


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def endless(path: Path) -> None:
    """Sparse: 8 GiB that take no room on the disk."""
    with path.open("wb") as file:
        file.truncate(8 << 30)


@pytest.mark.parametrize("spoil", [folder, pipe, device, loop, dangling, empty, binary, endless])
@for_each("reader", READERS)
def test_a_path_that_is_not_a_valid_file_is_refused_by_every_reader(
    tmp_path: Path, reader: str, spoil: Callable[[Path], None]
) -> None:
    name, read = READERS[reader]
    spoil(tmp_path / name)
    if (reader, spoil) == ("configuration", empty):
        return  # an empty configuration is one that says nothing
    refused(lambda: read(tmp_path / name), name)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii")
    path.chmod(0)
    refused(lambda: read_array(path), "a.nii")


def test_a_permission_error_is_refused_with_the_system_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    path = volume(tmp_path / "a.nii")
    monkeypatch.setattr(given.os, "open", denied)
    assert "Permission denied" in str(refused(lambda: read_array(path), "a.nii"))


def test_a_file_replaced_by_a_pipe_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, regular = tmp_path / "a.nii", os.stat(volume(tmp_path / "b.nii"))
    os.mkfifo(path)
    monkeypatch.setattr(given.os, "stat", lambda _: regular)
    refused(lambda: read_array(path), "a.nii")
    assert stat.S_ISFIFO(os.lstat(path).st_mode)


@for_each("name", ["a\0b.nii", "x" * 5000 + ".nii", "\ud800.nii"])
@for_each("reader", READERS)
def test_an_impossible_file_name_is_refused(tmp_path: Path, reader: str, name: str) -> None:
    if reader == "sidecar":
        return  # no sidecar is there, and the volume's own refusal comes first
    refused(lambda: READERS[reader][1](tmp_path / name), None)


@for_each(
    "name",
    ["with space", "ünïcødé", "名前", "new\nline", "quo\"te'", "<b>", "$(x)", "-x", "\udcff"],
)
def test_a_volume_of_any_name_is_read_and_refused_on_one_line(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(read_array(volume(tmp_path / f"{name}.nii"))[0], DATA)
    refused(lambda: read_array(volume(tmp_path / f"{name}.nii", datatype=128)), f"{name}.nii")


def test_a_gzip_of_eight_gigabytes_is_refused_by_its_header(tmp_path: Path) -> None:
    """And neither unpacked nor given memory: 2**31 voxels of zeros in a few bytes."""
    path = volume(tmp_path / "a.nii.gz", dim=[4, 2048, 2048, 256, 2, 1, 1, 1])
    assert refused(lambda: read_array(path), "a.nii.gz").field == "dim"


def test_a_decompression_bomb_is_refused_by_its_compression_ratio(
    tmp_path: Path,
) -> None:
    path = volume(tmp_path / "a.nii.gz", dim=[3, 512, 512, 512, 1, 1, 1, 1])
    assert refused(lambda: read_array(path), "a.nii.gz").field == "dim, size"


def test_a_highly_compressed_volume_takes_memory_for_its_voxels_only(tmp_path: Path) -> None:
    """Four million voxels of one byte in 4 kB: 32 MB of numbers, and a megabyte at a time to unpack
    them.
    """
    path, flat = tmp_path / "a.nii.gz", np.ones((256, 256, 64), dtype=np.uint8)
    volume(path, flat)
    assert path.stat().st_size < 40_000
    import tracemalloc

    tracemalloc.start()
    read_array(path)
    assert tracemalloc.get_traced_memory()[1] < 8 * flat.size + (20 << 20)
    tracemalloc.stop()


def test_bytes_after_a_gzip_stream_are_refused(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + b"trailing rubbish")
    refused(lambda: read_array(path), "a.nii.gz")


def test_a_gzip_in_a_gzip_is_refused(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii.gz")
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert "NIfTI" in str(refused(lambda: read_array(path), "a.nii.gz"))


def test_the_series_is_found_among_pipes_loops_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    (tmp_path / "zero.nii").symlink_to("/dev/zero")
    (tmp_path / "around").symlink_to(tmp_path)
    series = volume(tmp_path / "series.nii", np.stack([DATA] * 6, axis=-1))
    with open_series(tmp_path) as (found, _):
        assert found == series
    assert list_scan_files(tmp_path) == [series]


def test_a_folder_with_more_files_than_a_scan_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanopinn.io.dicom.MAX_FILES", 3)
    for i in range(5):
        (tmp_path / f"{i}.dcm").write_bytes(b"")
    refused(lambda: list_scan_files(tmp_path), tmp_path.name)


@for_each("script", ["sleep 60", "printf '\\377\\376'; exit 1", "exec >&-; exit 0"])
def test_a_converter_that_hangs_or_fails_is_stopped_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    tool = tmp_path / "bin" / "dcm2niix"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    scan = tmp_path / "-o"
    scan.mkdir()
    (scan / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    monkeypatch.setattr("nanopinn.io.dicom._CONVERSION_TIMEOUT_S", 0.5)

    def convert() -> None:
        with open_series(scan):
            pass

    refused(convert, "-o")


@for_each(
    "raw, words",
    [
        (b"\0" * 344 + b"ni1\0" + b"\0" * 4000, ".hdr/.img"),
        (b"\x1c\x02\0\0n+2\0" + b"\0" * 4000, "NIfTI-2"),
        (b"\0" * 128 + b"DICM" + b"\0" * 4000, "DICOM"),
        (b"", "nothing"),
    ],
)
def test_other_formats_are_refused_by_their_names(tmp_path: Path, raw: bytes, words: str) -> None:
    (tmp_path / "a.nii").write_bytes(raw)
    assert words in str(refused(lambda: read_array(tmp_path / "a.nii"), "a.nii"))


def test_an_error_cuts_long_values_and_escapes_control_characters() -> None:
    text = str(
        InputError(
            "wrong", file="a\nb\x1b[2J", found=[0.5] * 100_000, remedy="x\ry", field="\u202e"
        )
    )
    assert text.isprintable()
    assert len(text) < 600
    assert "too large" in str(InputError("wrong", found=10**5000))
