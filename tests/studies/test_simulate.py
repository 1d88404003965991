"""Simulations of treatments: mass balance, doses, heat, and a voxel without transport as a system
of ODEs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from nanopinn import InputError, MapFiles, PhantomSettings, SimulationSettings, run_simulation
from nanopinn.parameters import value
from nanopinn.physics.cell_kill import CELLS_PER_UNIT
from nanopinn.physics.drug_pools import DrugPoolOptions, drug_pools, volume_fractions
from nanopinn.physics.formulation import Formulation
from nanopinn.physics.formulation_library import FREE, PH_SENSITIVE, THERMOSENSITIVE
from nanopinn.physics.heat import TemperatureCourse
from nanopinn.physics.plasma import Dose
from nanopinn.physics.tissue_maps import TissueMaps
from nanopinn.physics.treatment import Fraction, GivenDose, Heating, RadiationCourse, Treatment
from nanopinn.physics.tumour import TumourModel
from nanopinn.report.treatment_folder import write_simulation
from nanopinn.results import Simulation
from nanopinn.solvers.grid import Grid
from nanopinn.solvers.nonlinear_pools import Tolerance, integrate_adaptive
from nanopinn.solvers.operator import Interval
from nanopinn.solvers.time_partition import VOXEL_LIMITS
from nanopinn.solvers.tissue_setting import TissueSetting
from nanopinn.solvers.treatment_timeline import TreatmentTimeline
from nanopinn.studies.schedule import read_formulation
from nanopinn.studies.temperature import temperature_course
from nanopinn.studies.tissue_source import tissue_from_phantom
from tests.variants import for_each

HOUR = 3600.0
SMALL = PhantomSettings(shape=(10, 10, 8), refine=2)
QUICK = SimulationSettings(device="cpu", refine=1)
ARMS = {"free": FREE, "pH-sensitive": PH_SENSITIVE, "thermosensitive": THERMOSENSITIVE}


def treatment(
    formulation: Formulation,
    doses: tuple[Dose, ...] = (Dose(0.0, 90e-6),),
    heat: tuple[Heating, ...] = (),
    end_h: float = 6.0,
    images_h: tuple[float, ...] = (1.0, 6.0),
    fractions: tuple[Fraction, ...] = (),
) -> Treatment:
    given = tuple(GivenDose(formulation, d) for d in doses)
    return Treatment(
        given, heat, RadiationCourse(fractions), tuple(t * HOUR for t in images_h), end_h * HOUR
    )


def run(t: Treatment, **settings: object) -> Simulation:
    return run_simulation(t, phantom=SMALL, settings=QUICK.model_copy(update=settings))


def warm(minutes: float, mode: str = "imposed", ramp_s: float = 300.0) -> tuple[Heating, ...]:
    return (Heating(0.0, 60 * minutes, ramp_s, mode, 315.15, None),)  # type: ignore[arg-type]


def released(s: Simulation) -> np.ndarray:
    return sum(s.means(n) for n in ("free", "bound", "intracellular", "nuclear"))  # type: ignore[return-value]


@pytest.mark.parametrize("arm", ARMS)
def test_no_drug_is_lost_or_made_in_any_arm(arm: str) -> None:
    s = run(treatment(ARMS[arm], heat=warm(30), fractions=(Fraction(HOUR, 5.0),)))
    b = s.balance
    assert b.error < 1e-10
    # the vessels' throughput is large beside the tissue's drug: the balance holds on the tissue's
    # scale too
    assert abs((b.entered - b.lost - b.outflow - b.stored).sum()) < 1e-9 * b.stored.sum()


def test_refining_the_rim_alone_equals_refining_everything() -> None:
    """Half a millimetre at l = 0.4 mm: the simulation differs from that of whole voxels, and hardly
    from that of the whole refinement.
    """
    narrow = SMALL.model_copy(update={"length_scale_mm": 0.4})
    t = treatment(FREE, end_h=0.25, images_h=(0.25,))
    whole, rim, none = (
        run_simulation(t, phantom=narrow, settings=QUICK.model_copy(update=given)).means("free")
        for given in ({"refine": 2}, {"refine": 2, "rim_mm": 0.0}, {"refine": 1})
    )
    assert 0 < float(np.abs(rim - whole).max()) < 0.1 * float(np.abs(none - whole).max())


def after(
    t: Treatment,
    save_h: tuple[float, ...],
    *,
    share: float = 0.05,
    saturable: bool = True,
    tolerance: float = 1e-4,
) -> torch.Tensor:
    """Tumour means of every pool per tissue volume, ``(t, pool)``."""
    tissue = tissue_from_phantom(SMALL, "cpu")
    temperature = temperature_course(t, tissue)[0]
    course = TreatmentTimeline(
        TissueSetting(tissue.maps, tissue.grid, 1),
        tissue.scalars,
        t,
        temperature,
        limits=replace(VOXEL_LIMITS, release_change=share),
    )
    course.detail = replace(course.detail, saturable=saturable)
    U = integrate_adaptive(
        course.intervals(),
        course.zero_pools(),
        [h * HOUR for h in save_h],
        tolerance=Tolerance(step=tolerance),
    ).U
    return (U * volume_fractions(course.detail.pools, tissue.maps))[
        ..., tissue.maps.tumour > 0.5
    ].mean(dim=-1)


def test_twice_the_dose_is_twice_the_drug_unless_uptake_saturates() -> None:
    once, twice = (treatment(FREE, (Dose(0.0, m),)) for m in (90e-6, 180e-6))
    assert after(twice, (0.2, 6.0), saturable=False) / after(
        once, (0.2, 6.0), saturable=False
    ) == pytest.approx(2.0, rel=1e-9)
    saturating = after(twice, (0.2,))[0] / after(once, (0.2,))[0]
    cells = FULL_FREE.index("intracellular")
    assert 1.0 < float(saturating[cells]) < 1.95
    assert float(saturating[FULL_FREE.index("free")]) > 2.0  # what cells leave stays outside


FULL_FREE = ("free", "bound", "intracellular", "nuclear", "vessel free")


def test_heat_releases_more_drug_from_a_thermosensitive_liposome() -> None:
    cold, hot = (
        released(run(treatment(THERMOSENSITIVE, heat=h))) for h in ((), warm(60, ramp_s=0.0))
    )
    assert (hot > 3 * cold).all()
    tissue = tissue_from_phantom(SMALL, "cpu")
    t = treatment(FREE, heat=warm(60))
    course = TreatmentTimeline(
        TissueSetting(tissue.maps, tissue.grid, 1),
        tissue.scalars,
        t,
        temperature_course(t, tissue)[0],
    )
    assert course.release_temperature is None


def test_acid_releases_more_than_the_leak() -> None:
    t = treatment(PH_SENSITIVE, end_h=24.0)
    neutral = replace(t, doses=(GivenDose(replace(PH_SENSITIVE, triggers=()), t.doses[0].dose),))
    assert float(after(t, (24.0,))[0, 4]) > 1.5 * float(after(neutral, (24.0,))[0, 4])  # nuclear


def test_an_infusion_in_two_halves_is_the_same_infusion() -> None:
    whole = run(treatment(FREE, (Dose(0.0, 90e-6, HOUR),)))
    halves = run(treatment(FREE, (Dose(0.0, 45e-6, HOUR / 2), Dose(HOUR / 2, 45e-6, HOUR / 2))))
    assert halves.balance.entered.sum() == pytest.approx(whole.balance.entered.sum(), rel=1e-3)
    for name in whole.fields:
        assert halves.means(name) == pytest.approx(whole.means(name), rel=2e-3)


def test_doses_superpose() -> None:
    once, twice = treatment(FREE), treatment(FREE, (Dose(0.0, 90e-6), Dose(HOUR, 90e-6)))
    alone = after(once, (1.0, 2.0), saturable=False)
    assert after(twice, (2.0,), saturable=False)[0] == pytest.approx(alone[0] + alone[1], rel=2e-3)


def test_carriers_of_which_half_release_give_half_the_drug() -> None:
    t = treatment(THERMOSENSITIVE, heat=warm(10, ramp_s=0.0), end_h=0.5)
    half = replace(
        t, doses=(GivenDose(replace(THERMOSENSITIVE, releasable_share=0.5), t.doses[0].dose),)
    )
    all_release, half_release = (after(x, (0.1, 0.5), saturable=False) for x in (t, half))
    assert half_release[:, :5] == pytest.approx(0.5 * all_release[:, :5], rel=2e-3)
    retained, encapsulated = half_release[0, 5], half_release[0, 0]
    assert float(retained) > 5 * float(encapsulated)  # what heat cannot open stays closed


def test_another_imaging_time_changes_nothing() -> None:
    t = treatment(THERMOSENSITIVE, heat=warm(10, ramp_s=0.0), images_h=(1.0, 2.0), end_h=2.0)
    few, more = run(t), run(replace(t, images_s=(360.0, HOUR, 1.5 * HOUR, 2 * HOUR)))
    for name in few.fields:
        # a thousandth of the largest pool is what smaller pools are held to
        assert more.means(name)[[1, 3]] == pytest.approx(few.means(name), rel=2e-3, abs=2e-5), name


def test_halving_release_segments_changes_released_drug_by_below_half_a_percent() -> None:
    rise = (Heating(0.0, 600.0, 600.0, "imposed", 316.15, None),)
    t = treatment(THERMOSENSITIVE, heat=rise, end_h=1 / 6)
    coarse, fine = (after(t, (1 / 6,), share=s)[:, 1:5].sum(dim=1) for s in (0.05, 0.025))
    assert coarse == pytest.approx(fine, rel=5e-3)


def test_a_voxel_without_transport_solves_its_ordinary_equations() -> None:
    """Against scipy's solution of the equations of docs/physics.md, written down here once more."""
    n = 5
    tumour = torch.zeros((n, n, n), dtype=torch.float64)
    tumour[2, 2, 2] = 1.0
    one, phi, v_p, pH, dose = torch.ones_like(tumour), 0.3, 0.04, 6.9, 90e-6
    maps = TissueMaps(tumour, 1e-3 * one, phi * one, v_p * one, pH * one)
    course = TreatmentTimeline(
        TissueSetting(maps, Grid((n, n, n), (1.0, 1.0, 1.0)), 1), {"q": 1e-20}, treatment(FREE)
    )  # metre cells: no exchange
    times = [600.0, HOUR, 6 * HOUR]
    U = integrate_adaptive(
        course.intervals(), course.zero_pools(), times, tolerance=Tolerance(step=1e-6)
    ).U[:, :, 2, 2, 2]

    plasma = FREE.plasma((Dose(0.0, dose),)).free
    fb, tau, ka, kd = value("fb"), value("tau_c"), value("k_a"), value("k_d")
    PS_f, PS_b = (value(s) * value("SV_t") for s in ("P_f_t", "P_b_t"))
    cells, Vmax, Ke, Ki = value("rho_c") / CELLS_PER_UNIT, value("Vmax"), value("K_e"), value("K_i")
    s = 10 ** (-value("g_pH") * (7.4 - pH))
    kon, koff = value("k_on_DNA"), value("k_off_DNA")

    def rates(t: float, y: np.ndarray) -> list[float]:
        F, B, In, N, C = y
        to_free, to_bound = PS_f * ((1 - fb) * C - F), PS_b * (fb * C - B)
        z = cells * Vmax * s * F / (F + Ke) - cells * Vmax * In / (In + cells * Ki)
        flux = phi * (ka * F - kd * B)
        arriving = v_p / tau * (float(plasma(torch.tensor(t, dtype=torch.float64))) - C)
        return [
            (to_free - flux - z) / phi,
            (to_bound + flux) / phi,
            z - kon * In + koff * N,
            kon * In - koff * N,
            (arriving - to_free - to_bound) / v_p,
        ]

    exact = solve_ivp(
        rates, (0.0, times[-1]), np.zeros(5), method="LSODA", t_eval=times, rtol=1e-10, atol=1e-16
    ).y.T
    assert U.numpy() == pytest.approx(exact, rel=1e-4)


def test_newton_does_not_pass_the_pole_of_a_saturable_transporter() -> None:
    """With a step error far above K_e an earlier version diverged past the pole of F/(F + K_e)."""
    one = torch.ones((2, 2, 2), dtype=torch.float64)
    model = TumourModel.from_maps(
        TissueMaps(one, one, 0.3 * one, 0.03 * one, 7.4 * one), None, {"P": 0.0}
    )
    pools = drug_pools(model, 0 * one, 0 * one, DrugPoolOptions(carrier=False, saturable=True))
    still = tuple(torch.zeros(s, dtype=torch.float64) for s in ((3, 2, 2), (2, 3, 2), (2, 2, 3)))
    interval = Interval.from_pools(
        0.0,
        1e8,
        pools,
        still,
        Grid((2, 2, 2), (1e-3,) * 3),
        lambda t: torch.zeros(2, dtype=torch.float64),
    )
    start = torch.zeros_like(interval.capacity)
    start[0] = 10.0
    U = integrate_adaptive([interval], start, [1e8], tolerance=Tolerance(max_step=1e7)).U[-1]
    assert float(U.min()) > 0
    assert float((interval.capacity * U).sum()) == pytest.approx(
        float((interval.capacity * start).sum()), rel=1e-9
    )


def test_flow_is_solved_once_unless_radiation_changes_the_driving_pressure() -> None:
    tissue = tissue_from_phantom(SMALL, "cpu")
    setting = TissueSetting(tissue.maps, tissue.grid, 1)
    still = TreatmentTimeline(setting, tissue.scalars, treatment(FREE))
    list(still.intervals())
    assert still.flows_solved == 1
    t = treatment(FREE, fractions=(Fraction(HOUR, 5.0),), end_h=49.0)
    course = TreatmentTimeline(setting, tissue.scalars, t)
    lengths = [p.end - p.start for p in course.segments() if p.start >= HOUR]
    assert max(lengths) <= 4 * HOUR * (1 + 1e-9)
    inside = tissue.maps.tumour > 0.5
    before, at_peak = (float(course.flow(s)[0].p[inside].mean()) for s in (0.0, 25 * HOUR))
    assert at_peak / before == pytest.approx(
        value("RT_IFP"), abs=0.02
    )  # normal tissue keeps its own driving pressure


def test_a_user_carrier_has_the_permeability_of_its_file(
    tmp_path: Path,
) -> None:
    text = (
        Path(__file__).resolve().parents[2] / "docs" / "formulations" / "polymer_tsl.toml"
    ).read_text()
    own = 'permeability = {value = 1e-5, unit = "1/s", source = "test"}'
    (tmp_path / "mine.toml").write_text(text.replace('permeability = "PS_l"', own))
    tissue = tissue_from_phantom(SMALL, "cpu")
    course = TreatmentTimeline(
        TissueSetting(tissue.maps, tissue.grid, 1),
        {"PS_l": 3e-6},
        treatment(read_formulation(tmp_path / "mine.toml")),
    )
    model = course.flow(0.0)[1]
    assert float(model.scalars["PS_l"]) == 1e-5
    assert model.value("D_l_t") == 3.1e-12
    assert (
        float(
            TreatmentTimeline(course.setting, {"PS_l": 3e-6}, treatment(THERMOSENSITIVE))
            .flow(0.0)[1]
            .scalars["PS_l"]
        )
        == 3e-6
    )


def test_heat_lowers_pressure_and_opens_walls_unless_its_effects_are_left_out() -> None:
    tissue = tissue_from_phantom(SMALL, "cpu")
    setting, inside = TissueSetting(tissue.maps, tissue.grid, 1), tissue.maps.tumour > 0.5
    with_effects = treatment(THERMOSENSITIVE, heat=warm(60, ramp_s=0.0), end_h=72.0)
    course, without = (
        TreatmentTimeline(setting, tissue.scalars, t)
        for t in (with_effects, replace(with_effects, heat_effects=None))
    )

    def pressure_and_permeability(c: TreatmentTimeline, s: float) -> tuple[float, float]:
        flow, model = c.flow(s)
        return float(flow.p[inside].mean()), float(model.liposome_permeability()[0][inside].mean())

    before, at_end, at_rest = (
        pressure_and_permeability(course, s) for s in (-1.0, HOUR - 1e-3, 40 * HOUR)
    )
    assert before == pytest.approx(pressure_and_permeability(without, HOUR), rel=1e-6)
    assert at_end[0] / before[0] == pytest.approx(value("HT_IFP"), abs=0.02)
    assert at_rest[0] / before[0] == pytest.approx(value("HT_IFP"), abs=0.02)  # held
    assert at_end[1] / before[1] == pytest.approx(value("HT_Pl"), rel=1e-6)
    assert at_rest[1] / before[1] == pytest.approx(1.0, abs=0.01)
    assert len(without.segments()) < len(course.segments())


def test_segments_are_short_during_heat_effects_only() -> None:
    tissue = tissue_from_phantom(SMALL, "cpu")
    t = treatment(THERMOSENSITIVE, heat=warm(60, ramp_s=0.0), end_h=240.0, images_h=())
    parts = TreatmentTimeline(
        TissueSetting(tissue.maps, tissue.grid, 1), tissue.scalars, t
    ).segments()
    assert [p.start for p in parts[1:]] == [p.end for p in parts[:-1]]
    assert max(p.end - p.start for p in parts) <= 240 * HOUR / 4
    for p in parts:
        first, last = (t.factors(s) for s in (p.start + 1e-3, p.end - 1e-3))
        assert all(abs(np.log(float(last[n]) / float(first[n]))) < 0.21 for n in first)
    resting = [p for p in parts if p.end < 49 * HOUR and p.start > 30 * HOUR]
    assert len(resting) < 19 * HOUR / (4 * HOUR) + 2


def test_finer_segments_change_released_drug_by_less_than_half_a_percent() -> None:
    t = treatment(THERMOSENSITIVE, heat=warm(30, ramp_s=0.0), end_h=2.0, images_h=(2.0,))
    tissue = tissue_from_phantom(SMALL, "cpu")
    found = []
    for share in (0.2, 0.05):
        course = TreatmentTimeline(
            TissueSetting(tissue.maps, tissue.grid, 1),
            tissue.scalars,
            t,
            temperature_course(t, tissue)[0],
            limits=replace(VOXEL_LIMITS, log_factor_change=share),
        )
        U = integrate_adaptive(course.intervals(), course.zero_pools(), [2 * HOUR]).U[-1]
        found.append(
            (U * volume_fractions(course.detail.pools, tissue.maps))[
                :, tissue.maps.tumour > 0.5
            ].mean(dim=-1)
        )
    assert found[0] == pytest.approx(found[1], rel=5e-3)


def course_of(heat: tuple[Heating, ...]) -> tuple[TemperatureCourse, torch.Tensor]:
    tissue = tissue_from_phantom(SMALL, "cpu")
    course = temperature_course(treatment(THERMOSENSITIVE, heat=heat), tissue)[0]
    assert course is not None
    return course, tissue.maps.tumour > 0.5


def test_by_pennes_a_small_tumour_stays_below_the_target_and_cools() -> None:
    imposed, inside = course_of(warm(60))
    solved, _ = course_of(warm(60, "pennes"))
    body = value("T_body")
    assert float(imposed(HOUR)[inside].mean()) == pytest.approx(315.15)
    assert body + 0.2 < float(solved(HOUR)[inside].mean()) < 315.15
    assert float(solved(4 * HOUR)[inside].max()) == pytest.approx(body, abs=0.02)


def test_a_second_heating_by_pennes_starts_from_the_residual_heat() -> None:
    twice = (*warm(20, "pennes"), Heating(25 * 60.0, 45 * 60.0, 300.0, "pennes", 315.15, None))
    course, inside = course_of(twice)
    alone, _ = course_of((Heating(25 * 60.0, 45 * 60.0, 300.0, "pennes", 315.15, None),))
    assert float(course(30 * 60.0)[inside].mean()) > float(alone(30 * 60.0)[inside].mean()) + 0.05


def save(path: Path, values: np.ndarray, affine: np.ndarray, **side: object) -> Path:
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(side))
    return path


def thermometry(
    folder: Path, shape: tuple[int, ...], times: list[float] | None = None, unit: str = "C"
) -> tuple[Heating, ...]:
    T = np.full((*shape, 2), 42.0)
    path = save(
        folder / "T.nii.gz",
        T,
        tissue_from_phantom(SMALL, "cpu").affine,
        VolumeTiming=times or [0.0, 1800.0],
        Unit=unit,
    )
    return (Heating(0.0, 1800.0, 0.0, "imposed", None, path),)


def test_measured_and_scheduled_temperatures_are_equivalent(tmp_path: Path) -> None:
    measured, inside = course_of(thermometry(tmp_path, SMALL.shape))
    scheduled, _ = course_of(warm(30, ramp_s=0.0))
    for t in (0.0, 900.0, 1799.0, 1801.0):
        assert measured(t)[inside] == pytest.approx(scheduled(t)[inside], abs=1e-4)


def test_measured_heat_that_closes_vessels_gives_a_warning(tmp_path: Path) -> None:
    tissue, heat = tissue_from_phantom(SMALL, "cpu"), thermometry(tmp_path, SMALL.shape)
    mild = temperature_course(treatment(THERMOSENSITIVE, heat=heat), tissue)[1]
    changed(heat[0].file, lambda a: a + 4)  # type: ignore[arg-type]
    hot = temperature_course(treatment(THERMOSENSITIVE, heat=heat), tissue)[1]
    assert not any("Warning" in n for n in mild)
    assert any("46 C is above 45 C" in n for n in hot)


@for_each(
    "change, word",
    [
        ({"shape": (10, 10, 9)}, "grid of the maps"),
        ({"times": [0.0, 3600.0]}, "VolumeTiming"),
        ({"times": [5.0, 1.0]}, "increasing"),
        ({"unit": "F"}, "Unit"),
        ({"unit": "K"}, "no temperatures"),
    ],
)
def test_thermometry_that_cannot_be_used_is_refused(
    tmp_path: Path, change: dict[str, object], word: str
) -> None:
    with pytest.raises(InputError, match=word):
        course_of(thermometry(tmp_path, **{"shape": SMALL.shape, **change}))  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> MapFiles:
    """The small phantom's maps as files, in a folder as ``nanopinn maps`` writes it."""
    t = tissue_from_phantom(SMALL, "cpu")
    (tmp_path / "maps").mkdir()

    def put(name: str, values: torch.Tensor, **side: object) -> Path:
        return save(
            tmp_path / "maps" / f"{name}.nii.gz", t.domain.embed(values.numpy()), t.affine, **side
        )

    m = t.maps
    return MapFiles(
        ktrans=put("Ktrans", m.PS * 60, Unit="1/min"),
        ve=put("ve", m.phi),
        vp=put("vp", m.v_p),
        ph=put("pH", m.pH),
        mask=put("mask", m.tumour),
    )


def simulate(files: MapFiles, **settings: object) -> Simulation:
    return run_simulation(
        treatment(FREE, end_h=0.5, images_h=()),
        maps=files,
        settings=QUICK.model_copy(update=settings),
    )


def test_a_result_folder_and_its_maps_are_the_same_tumour(files: MapFiles, tmp_path: Path) -> None:
    of_files, of_folder = (
        simulate(files),
        run_simulation(treatment(FREE, end_h=0.5, images_h=()), folder=tmp_path, settings=QUICK),
    )
    for name in of_files.fields:
        assert of_folder.means(name) == pytest.approx(of_files.means(name), rel=1e-12)


def test_a_fits_posterior_medians_are_the_scalars(files: MapFiles, tmp_path: Path) -> None:
    row = {
        "name": "l",
        "label": "l",
        "unit": "mm",
        "scale": "log",
        "prior_median": 0.5,
        "prior_sd": 0.5,
        "posterior_median": 1.2,
        "posterior_sd": 0.1,
    }
    (tmp_path / "parameters.json").write_text(json.dumps({"parameters": [row], "assumptions": []}))
    (tmp_path / "check.json").write_text(json.dumps({"items": [], "seconds": 0.0}))
    fitted = run_simulation(
        treatment(FREE, end_h=0.5, images_h=()), folder=tmp_path, settings=QUICK
    )
    plain = simulate(files)
    assert (
        fitted.maps["IFP"].values[fitted.mask].mean()
        < 0.8 * plain.maps["IFP"].values[plain.mask].mean()
    )  # a longer l drains further
    assert any("posterior medians" in a for a in fitted.assumptions)


def changed(path: str | Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def test_voxels_that_were_not_measured_are_filled_and_counted(files: MapFiles) -> None:
    inside = np.argwhere(np.asarray(nib.load(files.mask).dataobj) > 0.5)[:3]

    def holes(a: np.ndarray) -> np.ndarray:
        a[tuple(inside.T)] = np.nan
        return a

    changed(files.ktrans, holes)
    s = simulate(files)
    assert any(a.startswith("3 tumour voxels without Ktrans") for a in s.assumptions)
    assert np.isfinite(s.fields["free"].values[:, s.mask]).all()


@pytest.mark.parametrize(
    ("which", "change", "word"),
    [
        ("mask", np.zeros_like, "empty"),
        ("ve", lambda a: a[:-1], "one grid"),
        ("ve", lambda a: 100 * a, "fraction"),
        ("ph", lambda a: np.full_like(a, np.nan), "finite"),
        ("ktrans", lambda a: 1e4 * a, "transfer constant"),
    ],
)
def test_maps_that_cannot_be_used_are_refused(
    files: MapFiles, which: str, change: Callable[[np.ndarray], np.ndarray], word: str
) -> None:
    changed(getattr(files, which), change)
    with pytest.raises(InputError, match=word):
        simulate(files)


def test_without_a_ph_the_simulation_is_refused(files: MapFiles) -> None:
    none = replace(files, ph=None)
    with pytest.raises(InputError, match="assume_ph"):
        simulate(none)
    assert any("6.9 is assumed" in a for a in simulate(none, assume_ph=6.9).assumptions)


def test_a_simulation_needs_exactly_one_tumour(files: MapFiles) -> None:
    t = treatment(FREE)
    with pytest.raises(InputError, match="one tumour"):
        run_simulation(t)
    with pytest.raises(InputError, match="phantom, maps"):
        run_simulation(t, phantom=SMALL, maps=files)


def test_the_folder_holds_the_numbers_of_the_result(tmp_path: Path) -> None:
    s = run(treatment(THERMOSENSITIVE, heat=warm(30, ramp_s=0.0), images_h=(0.5, 1.0), end_h=1.0))
    out = write_simulation(tmp_path / "out", s, {"simulate": QUICK.model_dump()})
    saved = np.asarray(nib.load(out / "fields/vessel_free.nii.gz").dataobj)
    assert saved[s.mask].mean(axis=0) == pytest.approx(s.means("vessel free"), rel=1e-6)
    side = json.loads((out / "fields/free.json").read_text())
    assert side["Unit"] == "ug/mL"
    assert side["FrameTimes"] == [1800.0, 3600.0]
    balance = json.loads((out / "balance.json").read_text())
    assert balance["pools"]["all"]["stored_mg"] == pytest.approx(s.balance.stored.sum())
    plasma = np.loadtxt(out / "plasma.tsv", skiprows=1)
    assert (np.diff(plasma[:, 0]) > 0).all()
    assert plasma[:, 3] == pytest.approx((1 - value("fb")) * plasma[:, 2], rel=1e-6)
    page = (out / "simulation.html").read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert all(g in page for g in ("thermosensitive", "Mass balance", "Assumptions"))
    assert str(tmp_path) not in "".join(p.read_text() for p in out.rglob("*.json"))
