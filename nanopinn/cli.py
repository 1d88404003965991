"""The command line: thin, it only calls the workflows."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanopinn.errors import InputError, NanopinnError
from nanopinn.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Imaging-driven inverse modelling of tumour nanomedicine. Research use only.\n\n"
    "Example: nanopinn fit --dce scan.nii --cest ph.nii --t1 1.4",
)  # fmt: skip

Dce = Annotated[Path, typer.Option(help="4-D DCE-MRI series (NIfTI) with its JSON sidecar.")]
Cest = Annotated[Path | None, typer.Option(help="3-D map of extracellular pH (NIfTI).")]
Mask = Annotated[Path | None, typer.Option(help="Tumour mask; an automatic one, which is reported, if absent.")]
Vfa = Annotated[list[Path] | None, typer.Option(help="Spoiled gradient echoes, one file per flip angle: --vfa FILE FILE ...")]
T1 = Annotated[str | None, typer.Option(help="Native T1: a value in s, or a map in s.")]
Aif = Annotated[str, typer.Option(help="'parker', or a TSV/CSV with time_s and plasma_mM or blood_mM.")]
AssumePh = Annotated[float | None, typer.Option(help="pH of the tumour where no CEST was measured; reported.")]
Orientation = Annotated[str | None, typer.Option(help="sform or qform, where the two disagree.")]
FlipAngle = Annotated[float | None, typer.Option(help="Flip angle of the series, degrees; wins over the sidecar.")]
Tr = Annotated[float | None, typer.Option(help="Excitation TR, s; wins over the sidecar.")]
FrameSpacing = Annotated[float | None, typer.Option(help="Time between frames, s; wins over the sidecar.")]
Relaxivity = Annotated[float | None, typer.Option(help="r1 of the agent, 1/(s mM).")]
BaselineFrames = Annotated[int | None, typer.Option(help="Frames before contrast.")]
BolusArrival = Annotated[float | None, typer.Option(help="Bolus arrival, s on the clock of the series.")]
Hematocrit = Annotated[float | None, typer.Option(help="Haematocrit, fraction.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Result folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every step's numbers.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that an earlier run wrote.")]


def _inputs(
    dce: Path, cest: Path | None, mask: Path | None, vfa: list[Path] | None, t1: str | None, aif: str,
    assume_ph: float | None, orientation: str | None, overrides: dict[str, Any],
) -> Any:  # fmt: skip
    from nanopinn.imaging.maps import ImagingInputs

    if orientation not in (None, "sform", "qform"):
        raise InputError("unknown orientation", field="--orientation", found=orientation, expected="sform or qform")
    return ImagingInputs(
        dce=dce, cest=cest, mask=mask, vfa=tuple(vfa or ()), t1=_t1(t1), aif=aif, assume_ph=assume_ph,
        overrides={k: v for k, v in overrides.items() if v is not None}, orientation=orientation,  # type: ignore[arg-type]
    )  # fmt: skip


def _t1(text: str | None) -> float | str | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _overrides(
    flip: float | None, tr: float | None, spacing: float | None, r1: float | None, baseline: int | None,
    arrival: float | None, hct: float | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "FlipAngle": flip, "RepetitionTimeExcitation": tr, "RepetitionTime": spacing, "ContrastRelaxivity": r1,
        "BaselineFrames": baseline, "BolusArrivalTime": arrival, "Hematocrit": hct,
    }  # fmt: skip


@contextmanager
def _progress(quiet: bool, verbose: bool = False) -> Iterator[Progress]:
    """Progress on stderr: a bar on a terminal, a line per step elsewhere or with ``verbose``."""
    if quiet:
        yield lambda stage, fraction, numbers: None
    elif verbose or not sys.stderr.isatty():
        yield lambda stage, fraction, numbers: typer.echo(_line(stage, fraction, numbers, verbose), err=True)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
        with Bars(*columns, console=Console(stderr=True)) as bars:
            tasks: dict[str, TaskID] = {}

            def show(stage: str, fraction: float, numbers: Mapping[str, float]) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=1.0, said="")
                bars.update(tasks[stage], completed=fraction, said=_chi2(numbers))

            yield show


def _chi2(numbers: Mapping[str, float]) -> str:
    return f"chi2/N {numbers['chi2/N']:.3f}" if "chi2/N" in numbers else ""


def _line(stage: str, fraction: float, numbers: Mapping[str, float], verbose: bool) -> str:
    said = ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()) if verbose else _chi2(numbers)
    return f"[{fraction:4.0%}] {stage}{', ' + said if said else ''}"


@app.command()
def fit(
    dce: Dce, cest: Cest = None, mask: Mask = None, vfa: Vfa = None, t1: T1 = None, aif: Aif = "parker",
    assume_ph: AssumePh = None, orientation: Orientation = None, flip_angle: FlipAngle = None, tr: Tr = None,
    frame_spacing: FrameSpacing = None, relaxivity: Relaxivity = None, baseline_frames: BaselineFrames = None,
    bolus_arrival: BolusArrival = None, hematocrit: Hematocrit = None,
    drug: Annotated[list[Path] | None, typer.Option(help="Post-dose drug images, each with its sidecar: --drug FILE FILE ...")] = None,
    engine: Annotated[str | None, typer.Option(help="auto (pinn, polished by fv), pinn or fv.")] = None,
    preset: Annotated[str | None, typer.Option(help="fast, default or accurate.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda[:N].")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the networks' first weights.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with a [fit] table, as every run dumps; options win.")] = None,
    out: Out = Path("nanopinn_result"), overwrite: Overwrite = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Fit one study: maps, flow, release and drug, each checked against finite volumes.

    Example: nanopinn fit --dce dce.nii.gz --cest ph.nii.gz --t1 1.4 --out result
    """
    from nanopinn.report.folder import claim_output, write_result
    from nanopinn.report.html import render_report
    from nanopinn.workflows.fit import run_fit

    over = _overrides(flip_angle, tr, frame_spacing, relaxivity, baseline_frames, bolus_arrival, hematocrit)
    inputs = _inputs(dce, cest, mask, vfa, t1, aif, assume_ph, orientation, over)
    given = {
        "engine": engine,
        "preset": preset,
        "device": device,
        "seed": seed,
        "drug": [str(d) for d in drug] if drug else None,
    }
    settings = _settings(config, given)
    claim_output(out, overwrite=overwrite)
    with _progress(quiet, verbose) as progress:
        study = run_fit(inputs, settings, progress=progress)
    dump = settings.model_dump() | {"drug": [Path(d).name for d in settings.drug]}
    report = render_report(study.imaging, study.fit)
    write_result(
        out, imaging=study.imaging, fit=study.fit, config={"fit": dump},
        inputs=[*inputs.files(), *(Path(d) for d in settings.drug)], report=report,
        checkpoint=study.checkpoint.to_bytes(), overwrite=overwrite,
    )  # fmt: skip
    typer.echo(study.imaging.summary())
    typer.echo(study.fit.summary())
    typer.echo("Assumed:\n" + "\n".join(f"- {a}" for a in study.fit.assumptions))
    typer.echo(f"Report: {out / 'report.html'}")
    if not study.fit.check.passed:
        raise typer.Exit(5)


def _settings(config: Path | None, given: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from nanopinn.workflows.settings import FitSettings

    table: dict[str, Any] = {}
    if config is not None:
        try:
            table = tomllib.loads(config.read_text(encoding="utf-8")).get("fit", {})
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError("the configuration cannot be read", file=config, found=str(error), expected="TOML") from error
        if not isinstance(table, dict):
            raise InputError("[fit] is not a table", file=config, field="fit", found=type(table).__name__)
    try:
        return FitSettings.model_validate({**table, **{k: v for k, v in given.items() if v is not None}})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        raise InputError("a setting cannot be used", file=config, field=field, found=first["input"], expected=first["msg"]) from error


@app.command()
def maps(
    dce: Dce, cest: Cest = None, mask: Mask = None, vfa: Vfa = None, t1: T1 = None, aif: Aif = "parker",
    assume_ph: AssumePh = None, orientation: Orientation = None, flip_angle: FlipAngle = None, tr: Tr = None,
    frame_spacing: FrameSpacing = None, relaxivity: Relaxivity = None, baseline_frames: BaselineFrames = None,
    bolus_arrival: BolusArrival = None, hematocrit: Hematocrit = None, out: Out = Path("nanopinn_maps"),
    overwrite: Overwrite = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Do the imaging alone: T1, Ktrans, ve, vp and pH maps with their standard deviations."""
    from nanopinn.report.folder import claim_output, write_imaging
    from nanopinn.workflows.maps import run_maps

    over = _overrides(flip_angle, tr, frame_spacing, relaxivity, baseline_frames, bolus_arrival, hematocrit)
    inputs = _inputs(dce, cest, mask, vfa, t1, aif, assume_ph, orientation, over)
    claim_output(out, overwrite=overwrite)
    with _progress(quiet, verbose) as progress:
        imaging = run_maps(inputs, progress=progress)
    write_imaging(out, imaging, inputs.files(), overwrite=overwrite)
    typer.echo(imaging.summary())
    typer.echo("Assumed:\n" + "\n".join(f"- {a}" for a in imaging.assumptions))
    typer.echo(f"Maps: {out}")


@app.command()
def phantom(
    out: Out, seed: Annotated[int, typer.Option(help="Of anatomy, parameters and noise.")] = 0,
    length_scale: Annotated[float | None, typer.Option(help="l, mm; drawn if absent.")] = None,
    shape: Annotated[tuple[int, int, int], typer.Option(help="Voxels.")] = (24, 24, 12),
    snr: Annotated[float, typer.Option(help="Baseline signal over noise, per voxel and frame.")] = 60.0,
    drug_noise: Annotated[float, typer.Option(help="Noise over the largest value of each drug image.")] = 0.05,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Write a synthetic study with its truth, solved finer and by another scheme than fits use."""
    from pydantic import ValidationError

    from nanopinn.workflows.phantom import make_phantom
    from nanopinn.workflows.settings import PhantomSettings

    try:
        settings = PhantomSettings.model_validate(
            {"seed": seed, "length_scale_mm": length_scale, "shape": shape, "snr": snr, "drug_noise": drug_noise}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError("a setting cannot be used", field=str(first["loc"][0]), found=first["input"], expected=first["msg"]) from error
    with _progress(quiet) as progress:
        folder = make_phantom(out, settings, progress=progress)
    typer.echo(f"Study: {folder}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Result folder of a fit.")],
    refine: Annotated[int, typer.Option(help="How much finer than the fit's grid.")] = 2,
    quiet: Quiet = False,
) -> None:
    """Repeat the finite-volume check on a result folder; exit code 5 if it fails.

    Example: nanopinn check nanopinn_result --refine 3
    """
    from nanopinn.workflows.check import run_check

    with _progress(quiet) as progress:
        result = run_check(folder, refine=refine, progress=progress)
    typer.echo(result.headline)
    for item in result.items:
        typer.echo(f"{'ok    ' if item.passed else 'FAILED'} {item.name:44s}{item.value:12.4g}  limit {item.limit:.4g}")
    if not result.passed:
        raise typer.Exit(5)


@app.command()
def verify(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table as JSON too.")] = None,
) -> None:
    """Run the verification cases and print each observed value beside its reference."""
    from nanopinn.workflows.verify import run_verification

    cases = run_verification()
    for c in cases:
        mark = "ok    " if c.passed else "FAILED"
        typer.echo(f"{mark} {c.id:4s}{c.name:30s}{c.quantity:38s}{c.observed:14.6g}{c.reference:12.5g}  +- {c.tolerance:.2g}")
    failed = [c for c in cases if not c.passed]
    typer.echo(f"{len(cases) - len(failed)} of {len(cases)} cases passed")
    if json_file is not None:
        from dataclasses import asdict

        from nanopinn.imaging.io import write_json

        write_json(json_file, {"cases": [asdict(c) | {"passed": c.passed} for c in cases]})
    if failed:
        raise typer.Exit(5)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Result folder of a fit.")]) -> None:
    """Print the check and the parameters of a result folder."""
    from nanopinn.report.folder import read_result

    result = read_result(folder)
    typer.echo(result.check.headline)
    for s in result.scalars:
        low, high = s.interval()
        typer.echo(f"{s.label:36s} {s.median:10.4g} ({low:.3g} to {high:.3g}) {s.unit}, contraction {s.contraction:.2f}")
    typer.echo("Assumed:\n" + "\n".join(f"- {a}" for a in result.assumptions))


@app.command()
def validate(
    dce: Annotated[Path | None, typer.Option(help="Series to read.")] = None,
    cest: Cest = None,
    template: Annotated[Path | None, typer.Option(help="Write a sidecar to fill in.")] = None,
) -> None:
    """Read inputs and report, without computing; or write a sidecar to fill in."""
    from nanopinn.imaging.acquisition import KEYS, load_acquisition
    from nanopinn.imaging.io import read_volume

    if template is not None:
        if template.exists():
            raise InputError("the file exists already", file=template, remedy="Give another name to --template.")
        template.write_text(json.dumps(KEYS, indent=2) + "\n", encoding="utf-8")
        typer.echo(f"Fill in: {template}")
    for path in (p for p in (dce, cest) if p is not None):
        volume = read_volume(path)
        typer.echo(f"{path.name}: {tuple(volume.shape)} voxels of {tuple(round(s, 4) for s in volume.meta['spacing_mm'])} mm")
        if path == dce:
            found = load_acquisition(path, volume.shape[-1], float(volume.meta["pixdim4_s"]))
            t = found.frame_times_s
            typer.echo(f"  {len(t)} frames, {t[0]:g} to {t[-1]:g} s; TR {found.repetition_time_s:g} s, flip {found.flip_angle_deg:g} deg")


@app.command()
def info() -> None:
    """Print versions, device and threads."""
    import torch

    from nanopinn import __version__

    typer.echo(f"nanopinn {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    typer.echo(f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")


#: Options that take every file up to the next option, as a shell's wildcard gives them.
_MANY = ("--vfa", "--drug")


def _spread(arguments: list[str]) -> list[str]:
    """Repeat an option of :data:`_MANY` before each of its files, which is how the parser takes several."""
    out: list[str] = []
    many = None
    for a in arguments:
        if a.startswith("-"):
            many = a if a in _MANY else None
            if many is None:
                out.append(a)
        elif many is not None:
            out += [many, a]
        else:
            out.append(a)
    return out


def main() -> None:
    """Entry point: errors as one paragraph, exit codes as documented."""
    try:
        app(_spread(sys.argv[1:]))
    except SystemExit as end:
        if end.code == 130:
            typer.echo("Interrupted; nothing was written.", err=True)
        raise
    except NanopinnError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("Interrupted; nothing was written.", err=True)
        sys.exit(130)
    except Exception as error:
        typer.echo(
            f"Internal error: {type(error).__name__}: {error}. Please report it with the command you gave.",
            err=True,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
