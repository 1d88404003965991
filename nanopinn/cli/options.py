"""Options that several commands share; a decorator gives commands the options of the imaging."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from nanopinn.cli.config import build_settings
from nanopinn.errors import InputError

if TYPE_CHECKING:
    from nanopinn.imaging.imaging_data import ImagingInputs

T = TypeVar("T")

Cest = Annotated[
    Path | None,
    typer.Option(
        help="3-D map of extracellular pH, or 4-D Z-spectra with offsets in their sidecar (NIfTI)."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Result folder to write.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the numbers of every step.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the result of an earlier run.")
]
Continue = Annotated[
    bool,
    typer.Option(
        "--continue",
        help=(
            "Continue from the checkpoint of an interrupted run with the same inputs and settings,"
            " if there is one; otherwise start from the beginning."
        ),
    ),
]
Config = Annotated[
    Path | None, typer.Option(help="TOML file as every run writes it; options take precedence.")
]
Device = Annotated[str | None, typer.Option(help="Device to compute on: auto, cpu or cuda[:N].")]

_AIF_HELP = (
    "Arterial input function: a population curve (parker, georgiou, weinmann or preclinical;"
    " default: that of the species, else parker); measured in the scan (auto or mask:FILE); or a"
    " TSV/CSV file with the columns time_s and plasma_mM or blood_mM."
)

_REGISTER_HELP = (
    "Register CEST, VFA, IR, T1 map and drug images to the DCE scan by mutual information: rigid or"
    " affine. With none (default), the affines in the headers are used."
)

#: Sidecar key that each of these parameters overrides: `overrides.FlipAngle` of the Python API.
OVERRIDE_KEYS = {
    "flip_angle": "FlipAngle",
    "tr": "RepetitionTimeExcitation",
    "frame_spacing": "RepetitionTime",
    "relaxivity": "ContrastRelaxivity",
    "contrast_dose": "ContrastDose",
    "baseline_frames": "BaselineFrames",
    "bolus_arrival": "BolusArrivalTime",
    "hematocrit": "Hematocrit",
}

#: Options that take every value up to the next option, such as the files of a shell wildcard.
MULTIVALUE_OPTIONS = (
    "--vfa",
    "--ir",
    "--drug",
    "--profile",
    "--candidate",
    "--tumour-mm",
    "--voxel-mm",
)


def expand_multivalue_options(arguments: list[str]) -> list[str]:
    """Repeat each option of :data:`MULTIVALUE_OPTIONS` before each of its values.

    The parser takes several values only in this form. The options of workflows take one value.

    Args:
        arguments: Words of the command line after the name of the program.
    """
    if arguments[:1] in (["cohort"], ["phantoms"]):
        return arguments
    out: list[str] = []
    many = None
    for a in arguments:
        if a.startswith("-"):
            many = a if a in MULTIVALUE_OPTIONS else None
            if many is None:
                out.append(a)
        elif many is not None:
            out += [many, a]
        else:
            out.append(a)
    return out


def parse_extra_options(
    command: Callable[..., Any], option: str, text: str, given: Sequence[str]
) -> tuple[str, ...]:
    """Split the value of an option that holds further options of another command.

    The options are checked once, before any job starts.

    Args:
        command: The other command.
        option: Name of the option, without dashes.
        text: Value of the option.
        given: Words that the command gets besides, among them all that it requires.

    Raises:
        InputError: The text cannot be split into words, or the command would refuse the options.
    """
    name, single = command.__name__, typer.Typer(add_completion=False)
    single.command(name)(command)
    parser = typer.main.get_command(single)
    refusal = cast("type[Exception]", typer.BadParameter.__base__)
    try:
        words = shlex.split(text)
        parser.make_context(name, expand_multivalue_options([*given, *words]))
    except (ValueError, refusal) as error:
        why = getattr(error, "message", "") or str(error)
        raise InputError(
            f"these options would be refused by nanopinn {name}",
            field=option,
            found=f"{text}: {why}",
            remedy=f"See nanopinn {name} --help.",
        ) from error
    return tuple(words)


def format_input_options(inputs: Sequence[tuple[str, str]]) -> list[str]:
    """Options of ``nanopinn fit`` that give a study of a cohort its inputs."""
    return [w for name, value in inputs for w in (f"--{name.replace('_', '-')}", value)]


def build_imaging_inputs(
    dce: Annotated[
        Path | None,
        typer.Option(
            help=(
                "4-D DCE-MRI series (NIfTI) with its JSON sidecar, or a folder of DICOM files or"
                " of dcm2niix."
            )
        ),
    ] = None,
    cest: Cest = None,
    cest_pre: Annotated[
        Path | None,
        typer.Option(help="Z-spectra before the injection: the reference of the contrast."),
    ] = None,
    cest_power2: Annotated[
        Path | None,
        typer.Option(help="Z-spectra at another saturation power, for agents with one frequency."),
    ] = None,
    cest_offsets: Annotated[
        Path | None,
        typer.Option(
            "--offsets",
            help="TSV/CSV file of saturation offsets, one per volume: offset_ppm or offset_Hz.",
        ),
    ] = None,
    cest_b0: Annotated[
        Path | None,
        typer.Option(
            "--b0",
            help="Map of the water resonance offset (B0 shift), ppm. Default: from the spectra.",
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="CEST agent: iopamidol (default) or a TOML file.")
    ] = None,
    cest_contrast: Annotated[
        str | None,
        typer.Option(
            help="CEST contrast: rex (difference of 1/Z, default) or st (difference of Z, MTRasym)."
        ),
    ] = None,
    ph_calibration: Annotated[
        str | None,
        typer.Option(
            help="Calibration of pH: bloch (for this scan, default), pagel-7T-3uT or a TOML file."
        ),
    ] = None,
    ph_method: Annotated[
        str | None,
        typer.Option(
            help="pH from the ratio (default) or the spectrum: a fit of all offsets, far slower."
        ),
    ] = None,
    register: Annotated[str | None, typer.Option(help=_REGISTER_HELP)] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Tumour mask. Default: an automatic mask, which is reported."),
    ] = None,
    vfa: Annotated[
        list[Path] | None,
        typer.Option(help="Flip-angle set for T1, one file per flip angle: --vfa FILE FILE ..."),
    ] = None,
    ir: Annotated[
        list[Path] | None,
        typer.Option(
            help="Inversion-recovery set for T1, one file per inversion time: --ir FILE FILE ..."
        ),
    ] = None,
    t1: Annotated[str | None, typer.Option(help="Native T1: a value or a map, s.")] = None,
    t1_method: Annotated[
        str | None, typer.Option(help="Fit of the flip-angle set: nonlinear (default) or linear.")
    ] = None,
    b1: Annotated[
        Path | None,
        typer.Option(help="Map of actual over nominal flip angle, as a fraction or in percent."),
    ] = None,
    relation: Annotated[
        str | None,
        typer.Option(
            help="Conversion of signal to concentration: spgr (exact, default) or linear."
        ),
    ] = None,
    aif: Annotated[str | None, typer.Option(help=_AIF_HELP)] = None,
    aif_dispersion_s: Annotated[
        float | None,
        typer.Option(
            "--aif-dispersion", help="Dispersion time of the arterial input before the tissue, s."
        ),
    ] = None,
    blood_t1_s: Annotated[
        float | None,
        typer.Option(
            "--blood-t1", help="Native T1 of blood for an arterial input measured in the scan, s."
        ),
    ] = None,
    delay: Annotated[
        str | None,
        typer.Option(
            help="Arrival delay: fitted for the tumour (default) or each voxel, or a value in s."
        ),
    ] = None,
    motion: Annotated[
        bool | None, typer.Option("--motion", help="Correct rigid motion of the series.")
    ] = None,
    assume_ph: Annotated[
        float | None,
        typer.Option(help="Extracellular pH to assume if no CEST was measured; it is reported."),
    ] = None,
    orientation: Annotated[
        str | None,
        typer.Option(help="Orientation to use if the two in the header disagree: sform or qform."),
    ] = None,
    flip_angle: Annotated[
        float | None,
        typer.Option(help="Flip angle of the series, degrees. Replaces the value in the sidecar."),
    ] = None,
    tr: Annotated[
        float | None,
        typer.Option(
            help="Repetition time between excitations, s. Replaces the value in the sidecar."
        ),
    ] = None,
    frame_spacing: Annotated[
        float | None,
        typer.Option(help="Time between frames, s. Replaces the value in the sidecar."),
    ] = None,
    relaxivity: Annotated[
        float | None, typer.Option(help="Relaxivity r1 of the contrast agent, 1/(s mM).")
    ] = None,
    contrast_dose: Annotated[
        float | None,
        typer.Option(help="Dose of the contrast agent, mmol/kg. It scales population curves."),
    ] = None,
    baseline_frames: Annotated[
        int | None, typer.Option(help="Number of frames before the contrast agent arrives.")
    ] = None,
    bolus_arrival: Annotated[
        float | None, typer.Option(help="Time of the bolus arrival in the series, s.")
    ] = None,
    hematocrit: Annotated[float | None, typer.Option(help="Haematocrit, as a fraction.")] = None,
    config: Config = None,
) -> ImagingInputs:
    """Build the inputs from the imaging options and the ``[imaging]`` table of a configuration."""
    from nanopinn.imaging.imaging_data import ImagingInputs

    overrides = {
        "flip_angle": flip_angle,
        "tr": tr,
        "frame_spacing": frame_spacing,
        "relaxivity": relaxivity,
        "contrast_dose": contrast_dose,
        "baseline_frames": baseline_frames,
        "bolus_arrival": bolus_arrival,
        "hematocrit": hematocrit,
    }
    stated = {OVERRIDE_KEYS[k]: v for k, v in overrides.items() if v is not None}
    given = {
        "dce": dce,
        "cest": cest,
        "cest_pre": cest_pre,
        "cest_power2": cest_power2,
        "cest_offsets": cest_offsets,
        "cest_b0": cest_b0,
        "agent": agent,
        "cest_contrast": cest_contrast,
        "ph_calibration": ph_calibration,
        "ph_method": ph_method,
        "register": register,
        "mask": mask,
        "vfa": tuple(vfa) if vfa else None,
        "ir": tuple(ir) if ir else None,
        "t1": _number_or_text(t1),
        "t1_method": t1_method,
        "b1": b1,
        "relation": relation,
        "aif": aif,
        "aif_dispersion_s": aif_dispersion_s,
        "blood_t1_s": blood_t1_s,
        "delay": _number_or_text(delay),
        "motion": motion,
        "assume_ph": assume_ph,
        "orientation": orientation,
        "overrides": stated or None,
    }
    return build_settings(ImagingInputs, "imaging", config, given)


def _number_or_text(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def with_imaging_options(command: Callable[..., T], *, needs_dce: bool = True) -> Callable[..., T]:
    """Give a command the options of :func:`build_imaging_inputs`, and the inputs as an argument.

    An option that the command takes as well (``config``) is shared.

    Args:
        command: whose first argument is the inputs.
        needs_dce: whether the DCE series is required.
    """
    # the first argument is not an option, so its type is not needed at run time
    names = {"ImagingInputs": object}
    shared = inspect.signature(build_imaging_inputs, eval_str=True, locals=names).parameters
    own = list(inspect.signature(command, eval_str=True, locals=names).parameters.values())[1:]
    wanted = {p.name for p in own}

    def run(**given: Any) -> T:
        inputs = build_imaging_inputs(**{name: given[name] for name in shared})
        return command(inputs, **{name: value for name, value in given.items() if name in wanted})

    extra = [p for p in own if p.name not in shared]
    options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*shared.values(), *extra)]
    if needs_dce:
        required = inspect.Parameter.empty
        options = [p.replace(default=required) if p.name == "dce" else p for p in options]
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in options}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
