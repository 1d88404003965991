"""Inputs of the fuzz test: valid inputs, their corruption, and the readers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanopinn.errors import InputError

Rng = np.random.Generator
#: What breaks parsers, as bytes.
TOKENS = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1e308",
    b"9" * 400,
    b"9" * 5000,
    b"null",
    b"true",
    b'"1"',
    b"[]",
    b"{}",
    b"[" * 3000,
    b'{"a":' * 2000,
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"<script>alert(1)</script>",
    b"\x1b[2J",
    b"\n",
    b"\r",
    b"\t",
    b'"',
    b"'''",
    b"=",
    b".",
    b"a." * 500,
    b"1979-05-27",
    b"0x" + b"f" * 50,
    b"1_000",
    b"-0",
    b"nan",
    b"inf",
    b",",
    b"#",
    b"..",
    b"/dev/zero",
    b"\xe2\x80\xa8",
)
#: What no reader should believe in a number's, a text's or a list's place.
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    0.5,
    -0.0,
    1e-320,
    1e308,
    -1e308,
    1e30,
    float("nan"),
    float("inf"),
    float("-inf"),
    10**400,
    -(10**400),
    2**63,
    "",
    "1",
    "nan",
    "<script>",
    "x" * 5000,
    "\ud800",
    "a\nb",
    "\x1b[2J",
    "../../etc/passwd",
    "\0",
    [],
    [[]],
    [1, "2"],
    [True],
    [None],
    [1.0] * 12,
    [1] * 100_001,
    [0.1] * 1000,
    [1e308, -1e308],
    [float("nan")],
    [10**400],
    {},
    {"a": 1},
    {"a": {"a": {"a": []}}},
    ["x"] * 3,
    "mM",
    "ppm",
    1e300,
    1e-300,
    7,
    60,
    273.15,
    2.5,
    "1/s",
    "K",
    "kg",
    12.5,
    [5, 4],
    [4, 5],
    [0, 1],
    [-4.2, 5.5],
    "ratio",
    "free",
    "pennes",
    "imposed",
)


@dataclass(frozen=True)
class Reader:
    """A reader and the generator of its inputs.

    Attributes:
        weight: Share of all inputs.
        corrupt: Writes an input, which a random generator determines, into a folder.
        read: Reads the input from the folder.
    """

    weight: int
    corrupt: Callable[[Path, Rng], None]
    read: Callable[[Path], Any]


# ---- corruption


def corrupt_bytes(content: bytes, rng: Rng, within: int | None = None) -> bytes:
    """Change bytes at one to four positions, which are below ``within`` if it is given."""
    raw = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        end = min(len(raw), within or len(raw))
        at = int(rng.integers(0, end + 1))
        match int(rng.integers(0, 7)):
            case 0 if end:
                raw[min(at, end - 1)] ^= 1 << int(rng.integers(0, 8))
            case 1 if end:
                raw[min(at, end - 1)] = int(rng.integers(0, 256))
            case 2:
                token = TOKENS[int(rng.integers(len(TOKENS)))]
                raw[at : at + (len(token) if rng.random() < 0.5 else 0)] = token
            case 3:
                del raw[at : at + int(rng.integers(1, 40))]
            case 4:
                raw[at:at] = raw[at : at + int(rng.integers(1, 200))]
            case 5:
                raw[at : at + 4] = np.array(
                    [VALUES_32[int(rng.integers(len(VALUES_32)))]], dtype=np.float32
                ).tobytes()
            case 6 if within is None and rng.random() < 0.3:
                del raw[at:]
    return bytes(raw)


VALUES_32 = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e38, -1e38, 1e-45, 352.0, 0.5)


def corrupt_value(value: Any, rng: Rng) -> Any:
    """Replace, remove or add one entry of a tree of tables and lists."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[int(rng.integers(len(value)))]
        match int(rng.integers(0, 8)):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {
                    **value,
                    (
                        "x" * int(rng.integers(1, 9)) if rng.random() < 0.8 else "a b\n<"
                    ): _random_value(rng),
                }
            case _:
                return {**value, key: corrupt_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = int(rng.integers(len(value)))
        return [
            *value[:at],
            *(
                []
                if rng.random() < 0.2
                else [corrupt_value(value[at], rng)] * int(rng.integers(1, 3))
            ),
            *value[at + 1 :],
        ]
    if isinstance(value, (int, float)) and abs(value) < 1e300 and rng.random() < 0.4:
        return value * 10.0 ** float(rng.integers(-20, 20)) * float(rng.choice([-1.0, 1.0]))
    return _random_value(rng)


def _random_value(rng: Rng) -> Any:
    return VALUES[int(rng.integers(len(VALUES)))]


def corrupt_repeatedly(value: Any, rng: Rng) -> Any:
    for _ in range(int(rng.integers(1, 4))):
        value = corrupt_value(value, rng)
    return value


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def as_toml(value: Any) -> bytes:
    """Tables as TOML, inline below the first level."""
    if not isinstance(value, dict):
        return _toml(value).encode(errors="surrogatepass")
    return "".join(f"{json.dumps(k)} = {_toml(v)}\n" for k, v in value.items()).encode(
        errors="surrogatepass"
    )


def _toml(v: Any) -> str:
    if isinstance(v, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(w)}" for k, w in v.items()) + "}"
    if isinstance(v, list):
        return "[" + ", ".join(_toml(w) for w in v) + "]"
    if isinstance(v, float) and not np.isfinite(v):
        return repr(v)
    return {None: "{}"}.get(v) or (
        json.dumps(v) if not isinstance(v, str) else json.dumps(v, ensure_ascii="\ud800" not in v)
    )


def tree_corrupter(
    name: str, valid: Any, write: Callable[[Any], bytes]
) -> Callable[[Path, Rng], None]:
    """Corrupts a tree that is written to a file: its values, its bytes, or both."""

    def corrupt(folder: Path, rng: Rng) -> None:
        content = write(corrupt_repeatedly(valid, rng) if rng.random() < 0.8 else valid)
        (folder / name).write_bytes(corrupt_bytes(content, rng) if rng.random() < 0.3 else content)

    return corrupt


def byte_corrupter(name: str, valid: bytes) -> Callable[[Path, Rng], None]:
    """Corrupts the bytes of a file."""

    def corrupt(folder: Path, rng: Rng) -> None:
        (folder / name).write_bytes(corrupt_bytes(valid, rng))

    return corrupt


# ---- valid inputs


def volume_bytes(shape: tuple[int, ...], fill: float | np.ndarray = 1.0) -> bytes:
    import nibabel as nib

    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    image = nib.Nifti1Image((np.ones(shape) * fill).astype(np.float32), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return image.to_bytes()


SHAPE, FRAMES = (6, 5, 4), 12
TIMES = [7.0 * i for i in range(FRAMES)]
DCE = {
    "VolumeTiming": TIMES,
    "RepetitionTime": 7.0,
    "RepetitionTimeExcitation": 0.005,
    "FlipAngle": 15.0,
    "MagneticFieldStrength": 3.0,
    "ContrastRelaxivity": 4.5,
    "BaselineFrames": 3,
    "BolusArrivalTime": 21.0,
    "Hematocrit": 0.42,
    "ContrastDose": 0.1,
    "Units": "a.u.",
    "ConversionSoftware": "dcm2niix",
}
OFFSETS = [-300.0, *np.linspace(-7, 7, FRAMES - 1).round(3).tolist()]
CEST = {
    "SaturationOffsetsPPM": OFFSETS,
    "SaturationB1uT": 3.0,
    "SaturationTimeS": 5.0,
    "MagneticFieldStrength": 7.0,
    "CestAgent": "iopamidol",
}
IMAGE = {
    "TimeAfterDose": 7200.0,
    "Quantity": "total",
    "NoiseSD": 0.1,
    "Units": "ug/mL",
    "InversionTime": 0.5,
    "pHStd": 0.1,
    "Unit": "1/min",
    "RepetitionTimeExcitation": 0.005,
    "FlipAngle": 15.0,
    "RepetitionTime": 0.004,
    "ConversionSoftware": "dcm2niix",
}
OWN = {
    "value": 2e-6,
    "unit": "1/s",
    "prior": "lognormal(0.7)",
    "source": "a paper",
    "low": 1e-6,
    "high": 4e-6,
}
FORMULATION = {
    "name": "mine",
    "description": "a carrier of mine",
    "aliases": ["m1"],
    "releasable_share": 0.9,
    "diameter": {**OWN, "value": 1e-7, "unit": "m", "low": 5e-8, "high": 2e-7},
    "leak": OWN,
    "permeability": "PS_l",
    "transmission": "leak_l",
    "retardation": "f_l",
    "diffusion": "D_l_t",
    "decay": "k_d_lip",
    "heat": {"k_hot": "krel_TSL_hot", "T_m": "T_m", "w": "w_T", "T_hot": "T_hot"},
    "acid": {"k_ref": "krel_ref", "pK": "pK_rel", "n": "n_rel", "pH_ref": "pH_ref"},
    "circulation": {
        "volume": {"value": 0.003, "unit": "m**3", "source": "a paper"},
        "rates": [
            {**OWN, "value": 1e-4, "low": 1e-5, "high": 1e-3},
            {**OWN, "value": 1e-5, "low": 1e-6, "high": 1e-4},
        ],
        "shares": [{"value": 0.3, "unit": "1", "source": "a paper"}],
    },
}
SCHEDULE = {
    "run": {"end_h": 24.0, "heat_effects": True},
    "patient": {"body_surface_m2": 1.8},
    "imaging": {"times_h": [1.0, 4.0, 24.0]},
    "dose": [
        {"formulation": "pld", "start_h": 0.0, "amount_mg": 90.0, "infusion_min": 30.0},
        {"formulation": "own.toml", "start_h": 2.0, "mg_per_m2": 50.0},
    ],
    "heat": [
        {"start_h": 0.5, "minutes": 60.0, "temperature_C": 42.0, "ramp_min": 5.0, "mode": "pennes"},
        {"start_h": 4.0, "minutes": 30.0, "file": "thermometry.nii.gz"},
    ],
    "radiation": [{"time_h": 1.0, "dose_Gy": 2.0}],
}
ONE_DOSE = {**SCHEDULE, "dose": SCHEDULE["dose"][:1]}  # type: ignore[index]
CALIBRATION = {
    "source": "a paper",
    "coefficients": [6.0, 0.5],
    "of": "ratio",
    "contrast": "st",
    "ratio_ppm": [4.2, 5.5],
    "pH_range": [6.0, 7.4],
    "std_pH": 0.05,
    "ratio_range": [0.5, 3.0],
    "field_T": 7.0,
    "B1_uT": 3.0,
    "seconds": 5.0,
}
AGENT = {
    "mine": {
        "source": "a paper",
        "water_protons_M": 110.0,
        "pKw": 13.6,
        "R1_per_s": 1.0,
        "R2_per_s": 2.0,
        "ratio_ppm": [4.2, 5.5],
        "pools": [
            {"name": "amide", "ppm": 4.269, "protons": 2, "k0": 1e-4, "kb": 85.0},
            {"name": "other", "ppm": 5.578, "protons": 1, "k0": 41.0, "kb": 693.0},
        ],
    }
}
CONFIG = {
    "fit": {
        "engine": "fv",
        "preset": "fast",
        "device": "cpu",
        "seed": 1,
        "drug": ["a.nii"],
        "field": [],
        "inflow": False,
        "model_error": 0.1,
        "release_law": False,
        "release_in_time": [6.0, 24.0],
        "starts": 2,
        "noise": "given",
        "aif_sd": 0.1,
        "profile": ["l"],
    },
    "imaging": {
        "t1_method": "linear",
        "relation": "spgr",
        "aif_dispersion_s": 0.0,
        "model": "etofts",
        "delay": "tumour",
        "smooth": False,
        "motion": False,
        "assume_ph": 6.9,
        "t1": 1.4,
        "aif": "parker",
        "vfa": ["a.nii"],
        "overrides": {"FlipAngle": 15.0},
    },
    "phantom": {
        "seed": 1,
        "shape": [10, 10, 6],
        "snr": 60.0,
        "voxel_mm": [0.5, 0.5, 0.5],
        "factors": {"K": 1.1},
        "drug_times_h": [2.0],
    },
    "simulate": {
        "device": "cpu",
        "tolerance": 1e-4,
        "refine": 2,
        "rim_mm": None,
        "advection": "fitted",
        "assume_ph": 6.9,
    },
    "arms": {
        "arms": ["free"],
        "dose": "50mg/m2",
        "heat": ["42:60"],
        "draws": 10,
        "end_h": 72.0,
        "imaging_h": [1.0],
        "heating_min": [15.0],
    },
    "plan": {
        "tumour_mm": [6.0, 6.0, 4.0],
        "frames": 60,
        "drug": ["total@24"],
        "ph": True,
        "seed": 0,
        "draws": 2,
        "voxel_mm": 0.5,
    },
}
CONFIG["simulate"].pop("rim_mm")  # TOML has no null
ROW = {
    "name": "l",
    "label": "l",
    "unit": "mm",
    "scale": "log",
    "prior_median": 1.0,
    "prior_sd": 0.5,
    "posterior_median": 1.2,
    "posterior_sd": 0.2,
}
ITEM = {"name": "balance", "value": 0.1, "limit": 1.0, "passed": True, "meaning": "of mass"}
TABLES = {
    "parameters": {"parameters": [ROW, ROW], "assumptions": ["one"]},
    "check": {"items": [ITEM], "seconds": 1.0},
}
CURVE = b"time_s\tplasma_mM\n" + b"".join(
    b"%d\t%.3f\n" % (t, 5 * t * np.exp(-t / 20)) for t in range(0, 90, 5)
)
OFFSET_TABLE = b"offset_ppm,n\n" + b"".join(b"%.3f,%d\n" % (o, i) for i, o in enumerate(OFFSETS))
PEOPLE = b"participant_id\tsession_id\tage\tgroup\n" + b"".join(
    b"sub-%02d\tses-1\t%d\ta\n" % (i, 40 + i) for i in range(9)
)


def saved_fit() -> bytes:
    """The bytes of a small saved fit."""
    from nanopinn.inference.saved_fit import fit_to_bytes
    from nanopinn.results import (
        CheckItem,
        CheckResult,
        Curve,
        EngineRun,
        FitResult,
        MapEstimate,
        ScalarEstimate,
    )

    one = ScalarEstimate("l", "l", "mm", "log", 1.0, 0.5, 1.2, 0.2)
    run = EngineRun(
        "fv",
        (one,),
        np.eye(1),
        (3.0, 2.0),
        4.0,
        5,
        1.0,
        True,
        "converged",
        {"solves": 3},
        (),
        ("one",),
    )
    maps = {
        "p": MapEstimate("p", "Pa", "pressure", "images", np.ones(SHAPE), np.zeros((20, 20, 20)))
    }
    fit = FitResult(
        (one,),
        np.eye(1),
        {"fv": run},
        {"l": 0.1},
        CheckResult((CheckItem("b", 0.1, 1.0, True, "mass"),), 1.0),
        maps,
        {},
        (Curve("c", "mM", np.arange(3.0), np.ones(3), np.ones(3)),),
        ("one",),
        np.eye(4),
        np.ones(SHAPE, bool),
    )
    return fit_to_bytes(fit)


def corrupt_saved_fit(content: bytes, rng: Rng) -> bytes:
    """A saved fit with corrupted content and a recomputed, valid checksum, as in an attack."""
    import torch
    from safetensors.torch import load, save

    from nanopinn.io import serialize as saving

    arrays = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    corrupted = corrupt_repeatedly(json.loads(header["content"]), rng)
    text = json.dumps(corrupted)
    if rng.random() < 0.3:
        name = list(arrays)[int(rng.integers(len(arrays)))]
        arrays[name] = arrays[name].to(
            [torch.bfloat16, torch.int8, torch.bool][int(rng.integers(3))]
        )
    return save(arrays, {**header, "content": text, "sha256": saving._digest(text, arrays)})


# ---- readers


def readers() -> dict[str, Reader]:
    """All readers of input files."""
    import monai.data  # noqa: F401
    import torch  # noqa: F401  # imported here, so that the time of no input includes the import

    from nanopinn import settings
    from nanopinn.cli.config import build_settings
    from nanopinn.cohort.bids import read_participants
    from nanopinn.imaging.acquisition import load_acquisition, read_excitation
    from nanopinn.imaging.cest.agent import load_agent
    from nanopinn.imaging.cest.calibration import read_calibration
    from nanopinn.imaging.cest.ph_on_dce_grid import load_ph
    from nanopinn.imaging.cest.z_spectra import read_spectra
    from nanopinn.imaging.dce.aif import read_curve
    from nanopinn.imaging.dce.t1 import _from_map, _inversion_time, load_b1
    from nanopinn.imaging.drug_image import load_drug_image
    from nanopinn.imaging.imaging_data import ImagingInputs
    from nanopinn.imaging.mask import load_mask
    from nanopinn.inference.saved_fit import load_fit, load_fitted_problem
    from nanopinn.io.volumes import read_array, read_sidecar, sidecar_path
    from nanopinn.report.fit_summary import format_summary
    from nanopinn.report.result_folder import read_result
    from nanopinn.studies.schedule import read_formulation, read_schedule
    from nanopinn.studies.tissue_source import _ktrans_unit

    flat, series, fit = (
        volume_bytes(SHAPE),
        volume_bytes((*SHAPE, FRAMES), np.linspace(0.2, 1.0, FRAMES)),
        saved_fit(),
    )
    spectra = volume_bytes((*SHAPE, FRAMES), np.r_[1.0, np.linspace(0.9, 0.4, FRAMES - 1)])
    kinds = {
        "fit": settings.FitSettings,
        "imaging": ImagingInputs,
        "phantom": settings.PhantomSettings,
        "simulate": settings.SimulationSettings,
        "arms": settings.ComparisonSettings,
        "plan": settings.PlanSettings,
    }
    grid, inside = np.diag([1.0, 1.2, 2.0, 1.0]), np.ones(SHAPE, dtype=bool)

    def header(valid: bytes, name: str) -> Callable[[Path, Rng], None]:
        def corrupt(folder: Path, rng: Rng) -> None:
            raw = corrupt_bytes(valid, rng, within=352 if rng.random() < 0.8 else None)
            (folder / name).write_bytes(gzip.compress(raw, 1) if name.endswith("gz") else raw)

        return corrupt

    def stream(folder: Path, rng: Rng) -> None:
        (folder / "a.nii.gz").write_bytes(
            corrupt_bytes(packed, rng, within=None if rng.random() < 0.7 else 30)
        )

    def beside(valid: bytes, side: dict[str, Any]) -> Callable[[Path, Rng], None]:
        corrupt_sidecar, corrupt_volume = (
            tree_corrupter("a.json", side, as_json),
            header(valid, "a.nii"),
        )

        def corrupt(folder: Path, rng: Rng) -> None:
            corrupt_sidecar(folder, rng)
            if rng.random() < 0.2:
                corrupt_volume(folder, rng)
            else:
                (folder / "a.nii").write_bytes(valid)

        return corrupt

    def values(folder: Path, rng: Rng) -> None:
        usual = [1.0, 1.4, 6.9, 100.0][int(rng.integers(4))]
        data = rng.choice(
            np.array([usual] * 20 + [0.0, -1.0, 1e30, 1e-30, np.nan, np.inf, 7.0]), size=(3, 3, 2)
        )
        affine = np.diag([*rng.choice([0.01, 1.0, 1.0, 50.0], size=3), 1.0])
        affine[:3, 3] = rng.choice([0.0, 0.0, 3.0, 9e4], size=3)
        if rng.random() < 0.3:
            affine[0, 1] = rng.normal()
        import nibabel as nib

        image = nib.Nifti1Image(np.asarray(data, dtype=np.float32), affine)
        image.header.set_xyzt_units("mm")
        (folder / "a.nii").write_bytes(image.to_bytes())

    def read_with_all(*each: Callable[[Path], Any]) -> Callable[[Path], Any]:
        """Calls all readers; the input is refused if all of them refuse it."""

        def read(folder: Path) -> None:
            refusals = []
            for one in each:
                try:
                    one(folder)
                except InputError as error:
                    check_error(error)
                    refusals.append(error)
            if len(refusals) == len(each):
                raise refusals[0]

        return read

    def offsets(folder: Path, rng: Rng) -> None:
        byte_corrupter("o.csv", OFFSET_TABLE)(folder, rng)
        (folder / a).write_bytes(spectra)

    def result_folder(folder: Path, rng: Rng) -> None:
        for name, valid in TABLES.items():
            tree_corrupter(f"{name}.json", valid, as_json)(folder, rng)

    def formulations(folder: Path, rng: Rng) -> None:
        tree_corrupter("schedule.toml", SCHEDULE if rng.random() < 0.3 else ONE_DOSE, as_toml)(
            folder, rng
        )
        (folder / "own.toml").write_bytes(as_toml(FORMULATION))

    def fits(folder: Path, rng: Rng) -> None:
        try:
            content = (
                corrupt_saved_fit(fit, rng)
                if rng.random() < 0.5
                else corrupt_bytes(fit, rng, within=None if rng.random() < 0.5 else 200)
            )
        except (
            RuntimeError,
            OverflowError,
            ValueError,
            TypeError,
        ):  # this content cannot be written to a file
            content = corrupt_bytes(fit, rng)
        (folder / "fit.safetensors").write_bytes(content)

    def config(folder: Path) -> Any:
        return read_with_all(
            *(
                lambda f, t=t, k=k: build_settings(
                    k, t, f / "c.toml", {"dce": "a"} if t == "imaging" else {}
                )
                for t, k in kinds.items()
            )
        )(folder)

    packed = gzip.compress(bytes(series), 6)
    a = "a.nii"
    return {
        "NIfTI header": Reader(20, header(bytes(series), "a.nii"), lambda f: read_array(f / a)),
        "NIfTI header, packed": Reader(
            6, header(flat, "a.nii.gz"), lambda f: read_array(f / "a.nii.gz")
        ),
        "gzip stream": Reader(10, stream, lambda f: read_array(f / "a.nii.gz")),
        "maps by their values": Reader(
            4,
            values,
            read_with_all(
                lambda f: load_mask(f / a, SHAPE, grid),
                lambda f: load_b1(f / a),
                lambda f: _from_map(f / a, None),
                lambda f: load_ph(f / a, grid, inside),
            ),
        ),
        "DCE sidecar": Reader(
            14,
            tree_corrupter("a.json", DCE, as_json),
            lambda f: load_acquisition(f / a, FRAMES, 7.0),
        ),
        "sidecars of maps": Reader(
            8,
            beside(flat, IMAGE),
            read_with_all(
                lambda f: load_drug_image(f / a, SHAPE, grid, inside),
                lambda f: _inversion_time(f / a),
                lambda f: _ktrans_unit(f / a),
                lambda f: read_excitation(read_sidecar(f / a), sidecar_path(f / a)),
            ),
        ),
        "Z-spectra": Reader(5, beside(spectra, CEST), lambda f: read_spectra(f / a)),
        "table of offsets": Reader(
            4, offsets, lambda f: read_spectra(f / a, offsets_file=f / "o.csv")
        ),
        "arterial input": Reader(
            5,
            byte_corrupter("aif.tsv", CURVE),
            lambda f: read_curve(f / "aif.tsv", np.array(TIMES), 0.42),
        ),
        "participants": Reader(
            3,
            byte_corrupter("participants.tsv", PEOPLE),
            lambda f: read_participants(f / "participants.tsv"),
        ),
        "schedule": Reader(6, formulations, lambda f: read_schedule(f / "schedule.toml")),
        "formulation": Reader(
            6,
            tree_corrupter("own.toml", FORMULATION, as_toml),
            lambda f: str(read_formulation(f / "own.toml")),
        ),
        "calibration": Reader(
            4,
            tree_corrupter("c.toml", CALIBRATION, as_toml),
            lambda f: read_calibration(f / "c.toml").invert(np.ones(3), np.ones(3)),
        ),
        "agent": Reader(
            4, tree_corrupter("agent.toml", AGENT, as_toml), lambda f: load_agent(f / "agent.toml")
        ),
        "configuration": Reader(5, tree_corrupter("c.toml", CONFIG, as_toml), config),
        "saved fit": Reader(
            6,
            fits,
            read_with_all(lambda f: format_summary(load_fit(f)), lambda f: load_fitted_problem(f)),
        ),
        "tables of a result": Reader(3, result_folder, lambda f: read_result(f)),
    }


def check_error(error: InputError) -> None:
    """Check that an error is one printable line and names a file or a field.

    Raises:
        AssertionError: It does not.
    """
    text = str(error)
    assert text.isprintable(), "an InputError that is not one printable line"
    assert len(text) < 8000, "an InputError of more than 8000 characters"
    assert error.file or error.field, f"an InputError that names neither file nor field: {text}"
