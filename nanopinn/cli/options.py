"""Options that commands share; those of the imaging are declared once and given to commands by a
decorator.
"""

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
    from nanopinn.imaging.inputs import ImagingInputs

T = TypeVar("T")

Cest = Annotated[
    Path | None,
    typer.Option(
        help="3-D map of extracellular pH, or 4-D Z-spectra with offsets in the sidecar (NIfTI)."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Result folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every step's numbers.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a folder that an earlier run wrote.")
]
Continue = Annotated[
    bool,
    typer.Option(
        "--continue",
        help=(
            "Go on with what an interrupted run of the same inputs and settings kept; else start"
            " anew."
        ),
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda[:N].")]

_AIF_HELP = (
    "parker (default), georgiou, weinmann, preclinical; auto or mask:FILE, from the scan; or a"
    " TSV/CSV with time_s and plasma_mM or blood_mM."
)

_REGISTER_HELP = (
    "Move CEST, VFA, IR, T1 map and drug images over the DCE scan by mutual information: rigid or"
    " affine; none (default) goes by their affines."
)

#: Sidecar key that each of these parameters overrides: `overrides.FlipAngle` of the Python API.
OVERRIDE_KEYS = {
    "flip_angle": "FlipAngle",
    "tr": "RepetitionTimeExcitation",
    "frame_spacing": "RepetitionTime",
    "relaxivity": "ContrastRelaxivity",
    "dose": "ContrastDose",
    "baseline_frames": "BaselineFrames",
    "bolus_arrival": "BolusArrivalTime",
    "hematocrit": "Hematocrit",
}

#: Options that take every value up to the next option: files as a shell's wildcard gives them,
#: names.
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
    """Repeat an option of :data:`MANY` before each of its values, which is how the parser takes
    several; workflows' options take one.
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
        Path,
        typer.Option(
            help=(
                "4-D DCE-MRI series (NIfTI) with its JSON sidecar; or a folder of dcm2niix or"
                " DICOM."
            )
        ),
    ],
    cest: Cest = None,
    cest_pre: Annotated[
        Path | None, typer.Option(help="Z-spectra before injection, the reference of the contrast.")
    ] = None,
    cest_power2: Annotated[
        Path | None, typer.Option(help="Z-spectra at another power, for agents with one frequency.")
    ] = None,
    cest_offsets: Annotated[
        Path | None,
        typer.Option(
            "--offsets",
            help="TSV/CSV of saturation offsets: offset_ppm or offset_Hz, one per volume.",
        ),
    ] = None,
    cest_b0: Annotated[
        Path | None,
        typer.Option(
            "--b0", help="Map of water's place for CEST, ppm; found in the spectra if absent."
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="CEST agent: iopamidol (default), or a TOML file.")
    ] = None,
    cest_contrast: Annotated[
        str | None,
        typer.Option(help="rex (1/Z difference, default) or st (Z difference, MTRasym)."),
    ] = None,
    ph_calibration: Annotated[
        str | None,
        typer.Option(help="bloch (for this scan, default), pagel-7T-3uT, or a TOML file."),
    ] = None,
    ph_method: Annotated[
        str | None,
        typer.Option(help="ratio (default), or spectrum: a fit of every offset, far slower."),
    ] = None,
    register: Annotated[str | None, typer.Option(help=_REGISTER_HELP)] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Tumour mask; an automatic one, which is reported, if absent."),
    ] = None,
    vfa: Annotated[
        list[Path] | None,
        typer.Option(help="Spoiled gradient echoes, one file per flip angle: --vfa FILE FILE ..."),
    ] = None,
    ir: Annotated[
        list[Path] | None,
        typer.Option(help="Inversion recovery, one file per inversion time: --ir FILE FILE ..."),
    ] = None,
    t1: Annotated[str | None, typer.Option(help="Native T1: a value in s, or a map in s.")] = None,
    t1_method: Annotated[
        str | None, typer.Option(help="nonlinear (default) or linear fit of the flip angles.")
    ] = None,
    b1: Annotated[
        Path | None,
        typer.Option(help="Map of true over nominal flip angle, a fraction or percent."),
    ] = None,
    relation: Annotated[
        str | None, typer.Option(help="Signal to concentration: spgr (exact, default) or linear.")
    ] = None,
    aif: Annotated[str | None, typer.Option(help=_AIF_HELP)] = None,
    aif_dispersion_s: Annotated[
        float | None,
        typer.Option(
            "--aif-dispersion", help="Mixing time of the arterial input before the tissue, s."
        ),
    ] = None,
    blood_t1_s: Annotated[
        float | None,
        typer.Option(
            "--blood-t1", help="Native T1 of blood, s, for an arterial input measured in the scan."
        ),
    ] = None,
    delay: Annotated[
        str | None,
        typer.Option(
            help="Arrival: tumour (one, fitted; default), voxel (each fitted), or a value in s."
        ),
    ] = None,
    motion: Annotated[
        bool | None, typer.Option("--motion", help="Undo rigid motion of the series first.")
    ] = None,
    assume_ph: Annotated[
        float | None, typer.Option(help="pH of the tumour where no CEST was measured; reported.")
    ] = None,
    orientation: Annotated[
        str | None, typer.Option(help="sform or qform, where the two disagree.")
    ] = None,
    flip_angle: Annotated[
        float | None, typer.Option(help="Flip angle of the series, degrees; wins over the sidecar.")
    ] = None,
    tr: Annotated[
        float | None, typer.Option(help="Excitation TR, s; wins over the sidecar.")
    ] = None,
    frame_spacing: Annotated[
        float | None, typer.Option(help="Time between frames, s; wins over the sidecar.")
    ] = None,
    relaxivity: Annotated[float | None, typer.Option(help="r1 of the agent, 1/(s mM).")] = None,
    dose: Annotated[
        float | None, typer.Option(help="Dose of the agent, mmol/kg; scales population curves.")
    ] = None,
    baseline_frames: Annotated[int | None, typer.Option(help="Frames before contrast.")] = None,
    bolus_arrival: Annotated[
        float | None, typer.Option(help="Bolus arrival, s on the clock of the series.")
    ] = None,
    hematocrit: Annotated[float | None, typer.Option(help="Haematocrit, fraction.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML as every run dumps it; options win.")
    ] = None,
) -> ImagingInputs:
    """The inputs that the imaging options describe, over the ``[imaging]`` table of a
    configuration.
    """
    from nanopinn.imaging.inputs import ImagingInputs

    overrides = {
        "flip_angle": flip_angle,
        "tr": tr,
        "frame_spacing": frame_spacing,
        "relaxivity": relaxivity,
        "dose": dose,
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


def with_imaging_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command every option of :func:`build_imaging_inputs`, and hand it what they make as
    its first argument.

    An option that the command takes too (``config``) is shared.
    """
    names = {
        "ImagingInputs": object
    }  # the first argument is no option: its type is not needed at run time
    shared = inspect.signature(build_imaging_inputs, eval_str=True, locals=names).parameters
    own = list(inspect.signature(command, eval_str=True, locals=names).parameters.values())[1:]
    wanted = {p.name for p in own}

    def run(**given: Any) -> T:
        inputs = build_imaging_inputs(**{name: given[name] for name in shared})
        return command(inputs, **{name: value for name, value in given.items() if name in wanted})

    extra = [p for p in own if p.name not in shared]
    options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*shared.values(), *extra)]
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in options}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
