"""Reading and writing of volumes: files give back what was written, and headers are not trusted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nanopinn.errors import InputError, OutputError
from nanopinn.io.volumes import read_sidecar, read_volume, write_volume
from tests.variants import for_each

from ..imaging.conftest import oblique, save

AFFINE = oblique((1.0, 1.2, 2.0), (-30.0, 12.0, 7.0))
DATA = np.random.default_rng(0).random((5, 4, 3)).astype(np.float32)


def edited(path: Path, **fields: object) -> Path:
    """A valid volume whose header then had fields overwritten."""
    save(path, DATA, AFFINE)
    image = nib.load(path)
    header = image.header.copy()
    for key, content in fields.items():
        header[key] = content
    raw = header.binaryblock + b"\0" * 4 + DATA.tobytes(order="F")
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def refused(path: Path, orientation: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        read_volume(path, orientation=orientation)  # type: ignore[arg-type]
    assert caught.value.file == path.name
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_values_and_affine_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    volume = read_volume(save(tmp_path / name, DATA, AFFINE))
    np.testing.assert_array_equal(volume.numpy(), DATA)
    np.testing.assert_allclose(volume.affine.numpy(), AFFINE, atol=1e-6)  # float32 in the header
    assert volume.meta["spacing_mm"] == pytest.approx((1.0, 1.2, 2.0))
    assert volume.meta["notes"] == []


def test_stored_integers_are_scaled(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), AFFINE)
    image.header.set_slope_inter(0.5, -3.0)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii").numpy()
    np.testing.assert_array_equal(found, np.arange(60).reshape(5, 4, 3) * 0.5 - 3.0)


def test_compression_is_detected_by_content_and_not_by_name(tmp_path: Path) -> None:
    packed = save(tmp_path / "a.nii.gz", DATA, AFFINE)
    odd = tmp_path / "odd.nii"
    odd.write_bytes(packed.read_bytes())
    np.testing.assert_array_equal(read_volume(odd).numpy(), DATA)


@pytest.mark.parametrize(("code", "factor"), [(1, 1000.0), (2, 1.0), (3, 1e-3)])
def test_metres_and_micrometres_become_millimetres(
    tmp_path: Path, code: int, factor: float
) -> None:
    # voxels of about a millimetre, or a micrometre, but never a metre
    affine = np.diag([*[1e-3 if code == 1 else 1.0] * 3, 1.0]) @ AFFINE
    path = edited(
        tmp_path / "a.nii",
        xyzt_units=code | 8,
        pixdim=[1, *np.linalg.norm(affine[:3, :3], axis=0), 0, 0, 0, 0],
        **{f"srow_{a}": affine[i] for i, a in enumerate("xyz")},
        qform_code=0,
    )
    np.testing.assert_allclose(read_volume(path).affine.numpy()[:3], factor * affine[:3], rtol=1e-5)


def test_undeclared_units_and_orientation_are_assumed_and_noted(tmp_path: Path) -> None:
    volume = read_volume(edited(tmp_path / "a.nii", xyzt_units=0, sform_code=0, qform_code=0))
    assert len(volume.meta["notes"]) == 2
    np.testing.assert_allclose(volume.affine.numpy(), np.diag([1, 1.2, 2, 1]), rtol=1e-6)


@pytest.mark.parametrize(("code", "seconds"), [(8, 2.5), (16, 2.5e-3), (24, 2.5e-6)])
def test_the_header_s_frame_spacing_is_in_seconds(
    tmp_path: Path, code: int, seconds: float
) -> None:
    path = save(tmp_path / "a.nii", np.stack([DATA] * 3, axis=-1), AFFINE)
    image = nib.load(path)
    image.header["pixdim"][4], image.header["xyzt_units"] = 2.5, 2 | code
    again = tmp_path / "b.nii"
    nib.save(nib.Nifti1Image(image.get_fdata().astype(np.float32), AFFINE, image.header), again)
    assert read_volume(again).meta["pixdim4_s"] == pytest.approx(seconds)


def other_qform(path: Path, angle_deg: float = 0.0, shift_mm: float = 0.0) -> Path:
    turned, a = AFFINE.copy(), np.deg2rad(angle_deg)
    turned[:3, :3] = (
        np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        @ AFFINE[:3, :3]
    )
    turned[0, 3] += shift_mm
    image = nib.Nifti1Image(DATA, AFFINE)
    image.header.set_xyzt_units("mm")
    image.set_sform(AFFINE, 1)
    image.set_qform(turned, 1)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("change", [{"angle_deg": 1.0}, {"shift_mm": 0.5}])
def test_disagreeing_geometries_are_refused_until_one_is_chosen(
    tmp_path: Path, change: dict[str, float]
) -> None:
    path = other_qform(tmp_path / "a.nii", **change)
    error = refused(path)
    assert error.field == "sform, qform"
    assert "`orientation`" in str(error.remedy)
    np.testing.assert_allclose(
        read_volume(path, orientation="sform").affine.numpy(), AFFINE, atol=1e-5
    )
    assert not np.allclose(read_volume(path, orientation="qform").affine.numpy(), AFFINE, atol=1e-3)


def test_round_off_of_a_qform_is_no_disagreement(tmp_path: Path) -> None:
    read_volume(other_qform(tmp_path / "a.nii", angle_deg=0.01, shift_mm=0.01))


def test_a_chosen_geometry_must_exist(tmp_path: Path) -> None:
    assert refused(edited(tmp_path / "a.nii", qform_code=0), "qform").field == "orientation"


@for_each(
    "fields, field",
    [
        ({"sizeof_hdr": 349}, "sizeof_hdr"),
        ({"bitpix": 16}, "datatype, bitpix"),
        ({"xyzt_units": 1}, "pixdim, xyzt_units"),
        ({"qoffset_x": 1e30, "sform_code": 0}, "qform"),
        ({"srow_x": [1e30, 0, 0, 0], "qform_code": 0}, "sform"),
        ({"scl_slope": np.inf, "scl_inter": 0}, "scl_slope, scl_inter"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "scl_slope, scl_inter"),
        ({"scl_slope": np.nan, "scl_inter": 3}, "scl_slope, scl_inter"),
        ({"vox_offset": 352.5}, "vox_offset"),
        ({"vox_offset": 1e9}, "vox_offset"),
        ({"vox_offset": np.inf}, "vox_offset"),
        ({"dim": [8, 5, 4, 3, 1, 1, 1, 1]}, "sizeof_hdr"),
        ({"pixdim": [1, 0, 1.2, 2, 0, 0, 0, 0]}, "pixdim"),
        ({"pixdim": [1, -1, 1.2, 2, 0, 0, 0, 0]}, "pixdim"),
        ({"pixdim": [1, np.nan, 1.2, 2, 0, 0, 0, 0]}, "pixdim"),
        ({"pixdim": [1, 3, 3, 3, 0, 0, 0, 0], "qform_code": 0}, "pixdim"),
        ({"srow_x": [0, 0, 0, 0], "qform_code": 0}, "sform"),
        ({"srow_x": [np.nan, 0, 0, 0], "qform_code": 0}, "sform"),
        ({"dim": [2, 5, 12, 1, 1, 1, 1, 1]}, "dim"),
        ({"dim": [5, 5, 2, 2, 1, 3, 1, 1]}, "dim"),
        ({"dim": [3, 5, -4, 3, 1, 1, 1, 1]}, "dim"),
        ({"dim": [3, 400, 400, 400, 1, 1, 1, 1]}, "size"),
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "dim"),
        ({"dim": [7, 32767, 32767, 32767, 32767, 1, 1, 1]}, "dim"),
        ({"datatype": 128}, "datatype"),
        ({"datatype": 32}, "datatype"),
        ({"datatype": 999}, "datatype"),
        ({"xyzt_units": 5}, "xyzt_units"),
        ({"xyzt_units": 2 | 40}, "xyzt_units"),
        ({"vox_offset": 4}, "vox_offset"),
        ({"vox_offset": np.nan}, "vox_offset"),
        ({"vox_offset": 4000}, "size"),
    ],
)
@for_each("name", ["a.nii", "a.nii.gz"])
def test_an_impossible_header_is_refused_by_field(
    tmp_path: Path, name: str, fields: dict, field: str
) -> None:
    assert refused(edited(tmp_path / name, **fields)).field == field


def test_a_missing_file_a_folder_and_a_text_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.nii")
    (tmp_path / "folder.nii").mkdir()
    refused(tmp_path / "folder.nii")
    text = tmp_path / "notes.nii"
    text.write_text("not a volume " * 100)
    assert "NIfTI" in str(refused(text))
    empty = tmp_path / "empty.nii.gz"
    empty.write_bytes(b"")
    refused(empty)


@for_each("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_gzip_is_refused_wherever_it_breaks(tmp_path: Path, share: float) -> None:
    whole = save(
        tmp_path / "a.nii.gz", np.random.default_rng(0).random((40, 40, 20)), AFFINE
    ).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path)


def test_a_flipped_bit_inside_a_gzip_is_refused(tmp_path: Path) -> None:
    whole = bytearray(
        save(
            tmp_path / "a.nii.gz", np.random.default_rng(0).random((40, 40, 20)), AFFINE
        ).read_bytes()
    )
    whole[len(whole) // 2] ^= 4
    path = tmp_path / "b.nii.gz"
    path.write_bytes(whole)
    refused(path)


def test_a_truncated_plain_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", DATA, AFFINE)
    path.write_bytes(path.read_bytes()[:-1])
    error = refused(path)
    assert error.field == "size"
    assert error.found == f"{352 + DATA.nbytes - 1} bytes"


def test_a_gzip_that_never_ends_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Compressed zeros behind a small volume: reading stops, the volume is there."""
    path = save(tmp_path / "a.nii", DATA, AFFINE)
    bomb = tmp_path / "b.nii.gz"
    bomb.write_bytes(gzip.compress(path.read_bytes() + bytes(300 << 20), compresslevel=1))
    np.testing.assert_array_equal(read_volume(bomb).numpy(), DATA)


def test_all_nan_is_refused(tmp_path: Path) -> None:
    assert refused(save(tmp_path / "a.nii", np.full((4, 4, 4), np.nan), AFFINE)).field == "values"


def test_random_header_damage_ends_in_a_volume_or_in_one_paragraph(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = save(tmp_path / "a.nii", DATA, AFFINE).read_bytes()
    path = tmp_path / "b.nii"
    outcomes = set()
    for _ in range(400):
        raw = bytearray(good)
        for place in rng.integers(0, 352, size=rng.integers(1, 6)):
            raw[place] = rng.integers(0, 256)
        path.write_bytes(raw)
        try:
            read_volume(path)
            outcomes.add("read")
        except InputError as error:
            assert error.exit_code == 3
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_written_series_keeps_time_first_in_memory_and_last_in_the_file(tmp_path: Path) -> None:
    series = np.random.default_rng(1).random((7, 5, 4, 3)).astype(np.float32)
    write_volume(tmp_path / "a.nii.gz", series, AFFINE, sidecar={"Unit": "mM"})
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.numpy(), np.moveaxis(series, 0, -1))
    np.testing.assert_allclose(volume.affine.numpy(), AFFINE, atol=1e-5)
    assert read_sidecar(tmp_path / "a.nii.gz") == {"Unit": "mM"}


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, DATA, AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volume(tmp_path / "a.nii.gz", DATA, AFFINE)
    before = (tmp_path / "a.nii.gz").read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_volume(tmp_path / "a.nii.gz", DATA + 1, AFFINE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert (tmp_path / "a.nii.gz").read_bytes() == before


@for_each("text", ["{", "[1, 2]", "3", "\ufffe", "[" * 100000])
def test_a_sidecar_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_sidecar(tmp_path / "a.nii.gz")
    assert caught.value.file == "a.json"


def test_a_sidecar_may_be_absent_or_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path / "a.nii.gz") == {}
    (tmp_path / "a.json").write_text(json.dumps({"FlipAngle": 15}), encoding="utf-8-sig")
    assert read_sidecar(tmp_path / "a.nii") == {"FlipAngle": 15}
