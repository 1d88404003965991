"""The OSIPI DCE-DSC-MRI collection: every case within the tolerance that its authors state.

Source: github OSIPI/DCE-DSC-MRI_CodeCollection, test/*/data (Apache-2.0). Tolerances are theirs:
|measured - reference| <= atol + rtol |reference|.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from nanopinn.imaging.aif.curve import PlasmaCurve
from nanopinn.imaging.aif.population import parker
from nanopinn.imaging.kinetics.curve import InputCurve
from nanopinn.imaging.kinetics.fit import fit_kinetics
from nanopinn.imaging.kinetics.models import extended_tofts, tofts
from nanopinn.imaging.spgr import concentration_from_signal
from nanopinn.imaging.t1.vfa import fit_t1

pytestmark = pytest.mark.public_data


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        return [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(handle)]


def series(cell: str) -> np.ndarray:
    return np.array([float(x) for x in cell.split()])


def fitted(model, row: dict[str, str]) -> np.ndarray:
    t = series(row["t"])
    curve = InputCurve(PlasmaCurve(series(row["ta"]), series(row["ca"])), t)
    values = fit_kinetics(model, torch.as_tensor(series(row["C"]))[None], curve).parameters[0].numpy()
    values[0] *= 60
    return values


def test_all_25_tofts_cases_lie_within_the_osipi_tolerance(public_data: Path) -> None:
    cases = rows(public_data / "osipi/test/DCEmodels/data/dce_DRO_data_tofts.csv")
    assert len(cases) == 25
    for row in cases:
        Ktrans, ve = fitted(tofts, row)
        assert abs(Ktrans - float(row["Ktrans"])) <= 0.005 + 0.1 * float(row["Ktrans"]), row["label"]
        assert abs(ve - float(row["ve"])) <= 0.05, row["label"]


def test_all_15_extended_tofts_cases_lie_within_the_osipi_tolerance(public_data: Path) -> None:
    cases = rows(public_data / "osipi/test/DCEmodels/data/dce_DRO_data_extended_tofts.csv")
    assert len(cases) == 15
    for row in cases:
        Ktrans, ve, vp = fitted(extended_tofts, row)
        assert abs(Ktrans - float(row["Ktrans"])) <= 0.005 + 0.1 * float(row["Ktrans"]), row["label"]
        assert abs(ve - float(row["ve"])) <= 0.05, row["label"]
        assert abs(vp - float(row["vp"])) <= 0.025, row["label"]


@pytest.mark.parametrize(
    ("file", "count", "to_R1"),
    [
        ("t1_brain_data.csv", 76, lambda r: float(r["R1"])),
        ("t1_quiba_data.csv", 45, lambda r: 1000 * float(r["R1"])),  # the file holds 1/ms
        ("t1_prostate_data.csv", 50, lambda r: 1000 / float(r["T1 nonlinear"])),  # ms
    ],
)
def test_every_t1_case_lies_within_the_osipi_tolerance(public_data: Path, file: str, count: int, to_R1) -> None:
    cases = rows(public_data / "osipi/test/T1_mapping/data" / file)
    assert len(cases) == count
    for row in cases:
        TR = series(row["TR"])[0] * (1e-3 if "prostate" in file else 1.0)
        fit = fit_t1(series(row["s"])[None], series(row["FA"]), TR)
        assert abs(1 / fit.T1[0] - to_R1(row)) <= 0.05 + 0.05 * to_R1(row), row["label"]


def test_all_five_concentration_curves_are_reproduced_to_1e_5(public_data: Path) -> None:
    cases = rows(public_data / "osipi/test/SI_to_Conc/data/SI2Conc_data.csv")
    assert len(cases) == 5
    for row in cases:
        s, reference = series(row["s"]), series(row["conc"])
        baseline = s[1 : int(row["numbaselinepts"])].mean()  # their convention: the first image is dropped
        C = concentration_from_signal(s, baseline, float(row["T1base"]), float(row["TR"]), float(row["FA"]), float(row["r1"]))
        np.testing.assert_allclose(C[1:], reference[1:], atol=1e-5, rtol=1e-5, err_msg=row["label"])


def test_the_parker_curve_is_reproduced_exactly(public_data: Path) -> None:
    cases = rows(public_data / "osipi/test/PopulationAIF_DCE/data/ParkerAIF_ref.csv")
    t = np.array([float(r["time"]) for r in cases]) * 60
    reference = np.array([float(r["Cb"]) for r in cases])
    assert len({r["label"] for r in cases}) == 11
    # times in minutes times 60 and constants in seconds round differently in the last digits
    np.testing.assert_allclose(parker(t), reference, rtol=1e-12, atol=1e-12)
