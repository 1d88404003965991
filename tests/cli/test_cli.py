"""The command line: exit codes, one paragraph per error, no files after an error."""

from __future__ import annotations

import gzip
import io
import json
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nanopinn import load_fit
from nanopinn.cli import main
from nanopinn.cli.options import expand_multivalue_options
from nanopinn.inference.uncertainty.profile import profile_likelihood
from nanopinn.report.fit_summary import format_summary
from tests.variants import for_each

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"


def nanopinn(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nanopinn", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=280,
    )


def asked(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The same command in this process: what is refused needs no fresh imports, which take far
    longer than to refuse.
    """
    command, out, err, code = ["nanopinn", *map(str, args)], io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_help_imports_no_heavy_package() -> None:
    heavy = ("torch", "monai", "scipy", "matplotlib", "numpy", "pydantic")
    code = f"import sys, nanopinn.cli.app; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_missing_file_is_named(tmp_path: Path) -> None:
    refused(
        asked("maps", "--dce", tmp_path / "none.nii.gz", "--t1", "1.4", "-o", tmp_path / "out"),
        "none.nii.gz",
    )
    assert not (tmp_path / "out").exists()


def series(folder: Path, sidecar: dict[str, object] | None, spacing: float = 5.0) -> Path:
    path = folder / "dce.nii.gz"
    image = nib.Nifti1Image(
        100 + np.random.default_rng(0).random((6, 6, 4, 12)).astype(np.float32), np.eye(4)
    )
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = spacing
    nib.save(image, path)
    if sidecar is not None:
        (folder / "dce.json").write_text(json.dumps(sidecar))
    return path


@for_each(
    "sidecar, spacing, words",
    [
        ({"RepetitionTime": 5.0}, 5.0, ("RepetitionTimeExcitation",)),
        (
            {"RepetitionTime": 0.005, "RepetitionTimeExcitation": 0.005, "FlipAngle": 15},
            5.0,
            ("RepetitionTime", "excitation TR"),
        ),
        ({"RepetitionTimeExcitation": 0.005, "FlipAngle": 15}, 0.005, ("pixdim[4]",)),
        (
            {"VolumeTiming": [0, 5], "RepetitionTimeExcitation": 0.005, "FlipAngle": 15},
            5.0,
            ("VolumeTiming", "12"),
        ),
        (
            {"VolumeTiming": [5] * 12, "RepetitionTimeExcitation": 0.005, "FlipAngle": 15},
            5.0,
            ("VolumeTiming", "increase"),
        ),
    ],
)
def test_missing_or_contradictory_timing_is_refused(
    tmp_path: Path, sidecar, spacing, words
) -> None:
    path = series(tmp_path, sidecar, spacing)
    refused(
        asked("maps", "--dce", path, "--t1", "1.4", "--assume-ph", "7", "-o", tmp_path / "out"),
        *words,
    )
    assert not (tmp_path / "out").exists()


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    path = series(
        tmp_path, {"RepetitionTime": 5.0, "RepetitionTimeExcitation": 0.005, "FlipAngle": 15}
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(asked("validate", "--dce", path), "truncated")


def test_short_volume_in_a_valid_gzip_is_refused(tmp_path: Path) -> None:
    path = series(
        tmp_path, {"RepetitionTime": 5.0, "RepetitionTimeExcitation": 0.005, "FlipAngle": 15}
    )
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:2000]))
    refused(asked("validate", "--dce", path), "dce.nii.gz")


def test_empty_mask_is_refused(tmp_path: Path) -> None:
    mask = tmp_path / "mask.nii.gz"
    volume = nib.load(SAMPLE / "mask.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(volume.shape, np.float32), volume.affine), mask)
    result = asked(
        "maps",
        "--dce",
        SAMPLE / "dce.nii.gz",
        "--mask",
        mask,
        "--t1",
        "1.4",
        "--assume-ph",
        "7",
        "-o",
        tmp_path / "o",
    )
    refused(result, "mask.nii.gz", "empty")


@pytest.fixture(scope="module")
def sample_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps") / "out"
    inputs = [
        "--dce",
        SAMPLE / "dce.nii.gz",
        "--cest",
        SAMPLE / "ph.nii.gz",
        "--mask",
        SAMPLE / "mask.nii.gz",
    ]
    result = nanopinn(
        "maps", *inputs, "--vfa", *sorted(SAMPLE.glob("vfa_*.nii.gz")), "-o", out, "-q"
    )
    assert result.returncode == 0, result.stderr
    return out


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.dce
def test_ktrans_of_the_sample_is_within_10_percent_of_the_truth(sample_maps: Path) -> None:
    inside = read(SAMPLE / "mask.nii.gz") > 0.5
    found, true = read(sample_maps / "maps/Ktrans.nii.gz"), read(SAMPLE / "truth/Ktrans.nii.gz")
    assert np.nanmedian(np.abs(found / true - 1)[inside]) < 0.10  # the bound


@pytest.mark.cest
def test_a_ph_map_alone_gives_its_maps_and_a_fit_names_the_series(tmp_path: Path) -> None:
    inputs = ("--cest", SAMPLE / "ph.nii.gz", "--mask", SAMPLE / "mask.nii.gz")
    result = nanopinn("maps", *inputs, "-o", tmp_path / "out", "-q")
    assert result.returncode == 0, result.stderr
    assert "There is no DCE series" in result.stdout
    assert (tmp_path / "out" / "imaging.html").is_file()
    assert {p.name for p in (tmp_path / "out" / "maps").glob("*.nii.gz")} == {
        f"{name}.nii.gz" for name in ("mask", "pH", "pH_std", "pH_validity")
    }
    fit = nanopinn("fit", *inputs, "-o", tmp_path / "fit", "-q")
    assert fit.returncode == 2
    assert "--dce" in fit.stderr
    nothing = nanopinn("maps", "-o", tmp_path / "none", "-q")
    assert nothing.returncode == 3
    assert "--dce, or --cest alone" in nothing.stderr


@pytest.mark.cest
def test_z_spectra_of_the_sample_give_its_ph(tmp_path: Path) -> None:
    inputs = [
        "--dce",
        SAMPLE / "dce.nii.gz",
        "--cest",
        SAMPLE / "cest.nii.gz",
        "--mask",
        SAMPLE / "mask.nii.gz",
        "--t1",
        "1.4",
    ]
    result = nanopinn("maps", *inputs, "-o", tmp_path / "out", "-q")
    assert result.returncode == 0, result.stderr
    assert "Bloch-McConnell curve of iopamidol at 7 T" in result.stdout
    written = tmp_path / "out" / "maps"
    pH, std, true = (
        read(p)[mask()]
        for p in (written / "pH.nii.gz", written / "pH_std.nii.gz", SAMPLE / "truth/pH.nii.gz")
    )
    error = pH - true
    assert np.isfinite(error).mean() > 0.95
    # voxels of 0.75 mm over an acid core: some of its depth is averaged away
    assert abs(np.nanmean(error)) < 0.05
    assert np.nanstd(error) < 0.1
    assert (np.abs(error) < 1.96 * std)[np.isfinite(error)].mean() > 0.95
    assert (read(written / "pH_validity.nii.gz")[mask()] == 0).mean() > 0.9


@pytest.mark.dce
def test_maps_folder_holds_the_documented_files(sample_maps: Path) -> None:
    quantities = ["Ktrans", "ve", "vp", "T1", "pH"]
    volumes = [
        *quantities,
        *(f"{q}_std" for q in quantities),
        "status",
        "r2",
        "AICc",
        "pH_validity",
        "mask",
    ]
    expected = {f"maps/{v}{end}" for v in volumes for end in (".nii.gz", ".json")}
    expected |= {
        "aif.tsv",
        "aif.json",
        "imaging.json",
        "imaging.html",
        "config.toml",
        "provenance.json",
    }
    assert {
        str(p.relative_to(sample_maps)) for p in sample_maps.rglob("*") if p.is_file()
    } == expected
    side = json.loads((sample_maps / "maps/Ktrans.json").read_text())
    assert side["Unit"] == "1/min"
    assert side["OSIPI"] == {"Id": "Q.PH1.008", "Name": "Volume transfer constant"}
    assert side["Model"] == {"Name": "etofts", "OSIPI": "M.IC1.005"}
    page = (sample_maps / "imaging.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert "http" not in page.replace("http-equiv", "")
    numbers = json.loads((sample_maps / "imaging.json").read_text())
    assert numbers["median_over_tumour"]["Ktrans"] == pytest.approx(
        np.nanmedian(read(sample_maps / "maps/Ktrans.nii.gz")[mask()]), rel=1e-5
    )


def mask() -> np.ndarray:
    return read(SAMPLE / "mask.nii.gz") > 0.5


@pytest.mark.dce
def test_written_arterial_input_and_configuration_repeat_the_maps(
    sample_maps: Path, tmp_path: Path
) -> None:
    again = nanopinn(
        "maps",
        "--dce",
        SAMPLE / "dce.nii.gz",
        "--mask",
        SAMPLE / "mask.nii.gz",
        "--vfa",
        *sorted(SAMPLE.glob("vfa_*.nii.gz")),
        "--config",
        sample_maps / "config.toml",
        "--aif",
        sample_maps / "aif.tsv",
        "--delay",
        "0",
        "-o",
        tmp_path / "out",
        "-q",
    )
    assert again.returncode == 0, again.stderr
    first, second = (
        read(folder / "maps/Ktrans.nii.gz")[mask()] for folder in (sample_maps, tmp_path / "out")
    )
    # the table holds six digits
    np.testing.assert_allclose(second, first, rtol=1e-4)


@pytest.mark.dce
def test_unknown_choice_is_refused_with_the_valid_ones(tmp_path: Path) -> None:
    given = ("maps", "--dce", SAMPLE / "dce.nii.gz", "--t1", "1.4", "-o", tmp_path / "out")
    refused(asked(*given, "--model", "3cxm"), "--model", "3cxm", "2cxm")
    refused(asked(*given, "--delay", "soon"), "--delay", "voxel")
    refused(asked(*given, "--smooth", "--delay", "voxel"), "--smooth")
    (tmp_path / "c.toml").write_text("[imaging]\naiff = 'parker'\n")
    refused(asked(*given, "--config", tmp_path / "c.toml"), "aiff")
    (tmp_path / "c.toml").write_text("[imaging]\nsmooth = 'perhaps'\n")
    refused(asked(*given, "--config", tmp_path / "c.toml"), "smooth", "perhaps")
    fit = (
        "fit",
        "--dce",
        SAMPLE / "dce.nii.gz",
        "--t1",
        "1.4",
        "--assume-ph",
        "7",
        "-o",
        tmp_path / "out",
    )
    (tmp_path / "c.toml").write_text("[imaging]\nmodel = '2cxm'\n")
    refused(asked(*fit, "--config", tmp_path / "c.toml"), "model", "maps alone")
    assert not (tmp_path / "out").exists()


def test_fit_without_drug_images_is_complete_and_can_be_checked_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    inputs = [
        "--dce",
        SAMPLE / "dce.nii.gz",
        "--cest",
        SAMPLE / "ph.nii.gz",
        "--mask",
        SAMPLE / "mask.nii.gz",
    ]
    run = nanopinn(
        "fit",
        *inputs,
        "--vfa",
        *sorted(SAMPLE.glob("vfa_*.nii.gz")),
        "--engine",
        "fv",
        "--preset",
        "fast",
        "--formulation",
        "ph",
        "--drug-dose",
        "90mg",
        "-v",
        "-o",
        out,
        "--profile",
        "p_e",
    )
    assert run.returncode in (0, 5), run.stderr
    assert "PS_l" in run.stderr  # -v shows the numbers
    assert run.stderr.index("keep their priors") < run.stderr.index(
        "fv: Gauss-Newton"
    )  # before the engines, and in the end
    assert "keep their priors" in run.stdout
    assert "flat: not bounded by the data alone on either side" in run.stdout
    assert "Profile likelihoods" in (out / "report.html").read_text()
    read_back(out)
    rows = {r["name"]: r for r in json.loads((out / "parameters.json").read_text())["parameters"]}
    assert rows["PS_l"]["informed"] == "no"
    assert rows["PS_l"]["contraction"] == pytest.approx(0, abs=1e-6)
    for name in (
        "maps/IFP",
        "maps/IFP_std",
        "maps/velocity",
        "maps/krel",
        "maps/Ktrans",
        "fields/encapsulated",
    ):
        assert (out / f"{name}.nii.gz").is_file()
        assert json.loads((out / f"{name}.json").read_text())["Unit"]
    again = nanopinn("check", out, "-q")
    assert again.returncode == run.returncode
    first = {i["name"]: i["value"] for i in json.loads((out / "check.json").read_text())["items"]}
    for line in again.stdout.splitlines()[1:]:
        name, found = line[7:51].strip(), float(line[51:63])
        assert found == pytest.approx(first[name], rel=1e-3, abs=1e-7), name
    assert nanopinn("report", out).returncode == 0


def read_back(out: Path) -> None:
    """The fit of a folder, as Python takes it up again."""
    fit = load_fit(out)
    rows = json.loads((out / "parameters.json").read_text())["parameters"]
    assert [(s.name, s.median) for s in fit.scalars] == [
        (r["name"], r["posterior_median"]) for r in rows
    ]
    assert fit.check.headline in format_summary(fit)
    for name in ("maps/IFP", "fields/encapsulated"):
        kind, key = name.split("/")
        values = getattr(fit, kind)[key].values
        values = np.moveaxis(values, 0, -1) if kind == "fields" else values
        np.testing.assert_allclose(read(out / f"{name}.nii.gz"), values, rtol=1e-6)
    assert list(fit.profiles) == ["p_e"]
    # Nothing but its prior moves the driving pressure: the profile is that. A fit ends with steps
    # below 0.1 sd of ten unknowns, which leaves up to 0.05 of the objective to the profile, and
    # 0.05/(2 * 1.92) of the half-width of ln p_e, 0.69.
    p_e = profile_likelihood(fit, "p_e")
    np.testing.assert_allclose(p_e.interval, fit["p_e"].prior_interval(), rtol=9e-3)
    assert profile_likelihood(fit, "PS_l").bounded == (
        False,
        False,
    )  # solved for now, from the file


def test_interrupted_run_reports_it_and_leaves_no_files(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "nanopinn",
        "fit",
        "--dce",
        SAMPLE / "dce.nii.gz",
        "--cest",
        SAMPLE / "ph.nii.gz",
        "--t1",
        "1.4",
    ]
    run = subprocess.Popen([*command, "-o", tmp_path / "out"], stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    assert "imaging" in run.stderr.readline()
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert "nothing was written" in run.stderr.read()
    assert list(tmp_path.iterdir()) == []


SCHEDULE = """
[[dose]]
formulation = "free"
start_h = 0
amount_mg = 90
[imaging]
times_h = [0.1, 0.5]
[run]
end_h = 0.5
"""
PHANTOM = ("--phantom", "--shape", "10", "10", "8", "--refine", "1", "--seed", "3")


def simulated(folder: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    (folder / "plan.toml").write_text(SCHEDULE)
    return nanopinn("simulate", "--schedule", folder / "plan.toml", "-q", *more)


def test_simulation_is_repeated_by_its_configuration(
    tmp_path: Path,
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    first = simulated(tmp_path, *PHANTOM, "-o", out)
    assert first.returncode == 0, first.stderr
    assert "Relative mass-balance error" in first.stdout
    pools = ("free", "bound", "intracellular", "nuclear", "vessel_free")
    over_the_run = [f"maps/{kind}_{p}" for kind in ("peak", "auc") for p in pools]
    volumes = [
        *(f"fields/{p}" for p in pools),
        *over_the_run,
        "maps/IFP",
        "maps/velocity",
        "maps/mask",
    ]
    expected = {f"{v}{end}" for v in volumes for end in (".nii.gz", ".json")}
    expected |= {
        "plasma.tsv",
        "courses.tsv",
        "exposure.tsv",
        "balance.json",
        "simulation.html",
        "config.toml",
        "provenance.json",
    }
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == expected
    assert simulated(tmp_path, *PHANTOM, "-o", out).returncode == 4
    assert (
        simulated(tmp_path, "--phantom", "--config", out / "config.toml", "-o", again).returncode
        == 0
    )
    nuclear = [read(folder / "fields/nuclear.nii.gz") for folder in (out, again)]
    assert np.array_equal(*nuclear, equal_nan=True)


def test_simulation_without_schedule_or_map_is_refused(tmp_path: Path) -> None:
    refused(asked("simulate", "--phantom", "-o", tmp_path / "o"), "--schedule")
    refused(
        simulated(tmp_path, "--ktrans", SAMPLE / "truth/Ktrans.nii.gz", "-o", tmp_path / "o"),
        "--ve",
    )
    assert not (tmp_path / "o").exists()


def test_comparison_writes_its_folder_and_concludes(tmp_path: Path) -> None:
    out = tmp_path / "arms"
    arms = (
        "--arms",
        "free,tsl",
        "--heat",
        "42:10",
        "--end",
        "1",
        "--draws",
        "2",
        "--groups",
        "2",
        "--heating-times",
        "none",
        "--no-sensitivity",
    )
    done = nanopinn("simulate", *PHANTOM, *arms, "-q", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "tsl gives lethal exposure" in done.stdout
    assert (
        json.loads((out / "comparison.json").read_text())["arms"]["tsl"]["imbalance_voxels"] < 1e-8
    )
    assert not out.with_name("arms.partial").exists()
    assert nanopinn("simulate", *PHANTOM, *arms, "-q", "-o", out).returncode == 4


def test_invalid_arms_are_refused_by_name(tmp_path: Path) -> None:
    arms = ("simulate", *PHANTOM, "-q", "-o", tmp_path / "o", "--arms")
    refused(asked(*arms, "free,tls"), "tls", "tsl")
    refused(asked(*arms, "free", "--dose", "50000mg"), "dose", "50000")
    refused(asked(*arms, "tsl", "--heat", "42"), "heat", "42")
    refused(asked(*arms, "free", "--heat", "42:60"), "heat")
    refused(asked(*arms, "free", "--radiation", "5@100"), "--end", "100")
    refused(asked(*arms, "free", "--heating-times", "long"), "--heating-times", "long")
    refused(
        asked("simulate", "-q", "-o", tmp_path / "o", "--arms", "free", "--from", SAMPLE), "fit"
    )
    refused(asked("simulate", *PHANTOM, "-q", "-o", tmp_path / "o", "--heat", "42:60"), "--arms")
    assert not (tmp_path / "o").exists()


def test_interrupted_simulation_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(SCHEDULE.replace("0.5", "500"))
    command = [
        sys.executable,
        "-m",
        "nanopinn",
        "simulate",
        "--phantom",
        "--schedule",
        tmp_path / "plan.toml",
        "-o",
        tmp_path / "out",
    ]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    while "pools in time" not in (line := run.stderr.readline()):
        assert line
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert [p.name for p in tmp_path.iterdir()] == ["plan.toml"]


def test_multivalue_option_takes_the_values_that_follow() -> None:
    given = ["fit", "--vfa", "a", "b", "--mask", "m", "--drug", "c", "-q"]
    assert expand_multivalue_options(given) == [
        "fit",
        "--vfa",
        "a",
        "--vfa",
        "b",
        "--mask",
        "m",
        "--drug",
        "c",
        "-q",
    ]
    assert expand_multivalue_options(["--vfa", "a", "--vfa", "b"]) == ["--vfa", "a", "--vfa", "b"]
    assert expand_multivalue_options(["check", "out", "--refine", "3"]) == [
        "check",
        "out",
        "--refine",
        "3",
    ]


def test_usage_errors_exit_with_2() -> None:
    assert nanopinn("fit", "--dce").returncode == 2
    assert nanopinn("nothing").returncode == 2
    assert nanopinn("--help").returncode == 0


def test_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    result = nanopinn(
        "fit",
        "--dce",
        SAMPLE / "dce.nii.gz",
        "--cest",
        SAMPLE / "ph.nii.gz",
        "--t1",
        "1.4",
        "-o",
        tmp_path / "out",
    )
    assert result.returncode == 4
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
