"""Comparison of treatment arms in a small phantom: mass balance, draws, batches, resumption and
the result folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanopinn.errors import InputError
from nanopinn.physics.cell_kill import KILL_MODELS
from nanopinn.report.treatment_folder import write_comparison
from nanopinn.report.treatment_summary import describe_radiation_comparison
from nanopinn.results import Comparison
from nanopinn.settings import ComparisonSettings, FractionSpec, HeatingSpec, PhantomSettings
from nanopinn.studies.arms import microscale as exposed
from nanopinn.studies.arms.compare import compare_arms, select_primary_arm, with_heating_duration

PHANTOM = PhantomSettings.model_validate({"shape": (10, 10, 8), "refine": 2})
SETTINGS = ComparisonSettings(
    arms=("free", "tsl"),
    heat=(HeatingSpec(temperature_C=42, minutes=30),),
    draws=4,
    groups=2,
    end_h=4.0,
    imaging_h=(1.0, 4.0),
    heating_min=(),
    sensitivity=False,
)


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return compare_arms(SETTINGS, phantom=PHANTOM)


def test_mass_is_balanced_on_the_voxel_grid_and_in_every_cylinder(compared: Comparison):
    for arm in compared.arms.values():
        assert arm.simulation.balance.error < 1e-8
        assert arm.mass_balance_error < 1e-8


def test_every_outcome_has_a_value_at_the_medians_and_one_for_each_draw(compared: Comparison):
    for outcome in compared.outcomes:
        for values in outcome.values.values():
            assert len(values) == 1 + SETTINGS.draws
    for law in KILL_MODELS:
        shares = compared[f"lethal all, {law}"].values["tsl"]
        assert ((shares >= 0) & (shares <= 1)).all()


def test_at_equal_dose_the_triggered_arm_brings_more_drug_into_cells(compared: Comparison):
    given = [arm.simulation.treatment[0].split(" mg")[0] for arm in compared.arms.values()]
    assert given[0] == given[1]
    peak = compared["peak at wall"]
    assert peak.values["tsl"][0] > peak.values["free"][0]
    assert asked_about_name(compared) == "tsl"


def asked_about_name(c: Comparison) -> str:
    return c.conclusions[0].split(" gives lethal exposure")[0].split()[-1]


def test_a_draw_does_not_depend_on_its_batch(compared: Comparison, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exposed, "DRAWS_PER_BATCH", 2)
    again = compare_arms(SETTINGS, phantom=PHANTOM)
    for name in ("peak at wall", "area", "survival, rate"):
        for arm, values in compared[name].values.items():
            # steps are chosen for all draws that march together, each to a thousandth of a pool's
            # mass
            np.testing.assert_allclose(again[name].values[arm], values, rtol=5e-3)


class KilledError(Exception):
    pass


def test_an_interrupted_comparison_resumes_to_the_same_numbers(
    compared: Comparison, tmp_path: Path
):
    def kill(stage: str, fraction: float, numbers: object) -> None:
        if stage.startswith("tsl: sub-voxel") and fraction > 0.3:
            raise KilledError

    with pytest.raises(KilledError):
        compare_arms(SETTINGS, phantom=PHANTOM, checkpoint_folder=tmp_path / "kept", progress=kill)
    assert list((tmp_path / "kept").glob("free-*.safetensors"))
    stages = []
    resumed = compare_arms(
        SETTINGS,
        phantom=PHANTOM,
        checkpoint_folder=tmp_path / "kept",
        resume=True,
        progress=lambda stage, *_: stages.append(stage),
    )
    assert "free: sub-voxel model" not in stages
    for outcome in compared.outcomes:
        for arm, values in outcome.values.items():
            np.testing.assert_allclose(resumed[outcome.name].values[arm], values, rtol=1e-12)
    with pytest.raises(InputError, match="other inputs or settings"):
        compare_arms(
            SETTINGS.model_copy(update={"draws": 5}),
            phantom=PHANTOM,
            checkpoint_folder=tmp_path / "kept",
            resume=True,
        )


def test_the_folder_holds_page_figures_tables_and_every_arm(compared: Comparison, tmp_path: Path):
    out = write_comparison(tmp_path / "arms", compared, {"arms": SETTINGS.model_dump()})
    page = (out / "comparison.html").read_text()
    assert compared.conclusions[0].split(" does ")[0] in page
    assert "Research use only" in page
    for name in ("penetration", "survival", "lethal", "map_auc_free"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 10_000
        assert (out / "figures" / f"{name}.svg").read_text().lstrip().startswith("<?xml")
    for file in (
        "comparison.json",
        "outcomes.tsv",
        "draws.tsv",
        "penetration.tsv",
        "provenance.json",
        "config.toml",
    ):
        assert (out / file).stat().st_size > 0
    assert len((out / "draws.tsv").read_text().splitlines()) == 2 + SETTINGS.draws
    for arm in ("free", "tsl"):
        assert (out / arm / "fields" / "nuclear.nii.gz").is_file()
        assert (out / arm / "maps" / "lethal_radius_peak.nii.gz").is_file()
        assert (out / arm / "maps" / "auc_free.nii.gz").is_file()


def test_every_figure_on_the_page_names_its_assumptions(compared: Comparison):
    from nanopinn.report.figures_comparison import comparison_figures, figure_assumptions

    said = figure_assumptions(compared)
    for name in comparison_figures(compared):
        assert len(said[name]) > 40


def test_arms_need_one_tumour():
    with pytest.raises(InputError, match="one tumour"):
        compare_arms(SETTINGS)


def test_a_longer_heating_changes_nothing_else_of_the_treatment(compared: Comparison):
    from nanopinn.studies.arms.arm_specs import build_arms

    arms, _ = build_arms(("free", "tsl"), heat=(HeatingSpec(temperature_C=42, minutes=30),))
    longer = with_heating_duration(select_primary_arm(arms), 60.0)
    before, after = arms[1].treatment.heatings[0], longer.treatment.heatings[0]
    assert after.end_s - after.start_s == 3600.0
    assert (after.start_s, after.temperature_K, longer.treatment.doses) == (
        before.start_s,
        before.temperature_K,
        arms[1].treatment.doses,
    )


def test_radiation_changes_delivery_only_through_its_factors():
    settings = SETTINGS.model_copy(
        update={
            "arms": ("pld",),
            "heat": (),
            "radiation": (FractionSpec(dose_Gy=5, time_h=0.5),),
            "draws": 3,
        }
    )
    neutral = dict.fromkeys(("RT_IFP", "RT_Lp", "RT_K", "RT_P", "RT_SV"), 1.0)

    def gained(factors: dict[str, float]) -> dict[str, tuple[float, float, float]]:
        stated = settings.model_copy(update={"values": factors})
        found = compare_arms(stated, phantom=PHANTOM).radiation
        assert found is not None
        assert "inconsistent in the literature" in describe_radiation_comparison(found)
        return {g.description: g.ratio for g in found.rows}

    same = gained(neutral)
    np.testing.assert_allclose(same["interstitial pressure"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(same["AUC of free drug, mean over the tissue"], 1.0, rtol=1e-2)
    more = gained({**neutral, "RT_P": 3.0, "RT_IFP": 0.5})
    assert max(more["interstitial pressure"]) < 0.99
    assert min(more["AUC of free drug, mean over the tissue"]) > 1.01
