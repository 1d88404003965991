"""Options of the drug and the subject; a decorator gives them to the commands of a study."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nanopinn.cli.error_text import map_parameters_to_options

T = TypeVar("T")

_PANEL = "Drug and subject"
Species = Annotated[
    str | None,
    typer.Option(help="Species of the subject: human, mouse or rat.", rich_help_panel=_PANEL),
]
BodyWeight = Annotated[
    float | None,
    typer.Option(
        "--body-weight",
        help="Body weight, kg. Default: typical of the species.",
        rich_help_panel=_PANEL,
    ),
]
BodySurface = Annotated[
    float | None,
    typer.Option(
        "--body-surface",
        help="Body surface, m2. Default: from the body weight.",
        rich_help_panel=_PANEL,
    ),
]


def collect_study_options(
    formulation: Annotated[
        str | None,
        typer.Option(
            help="Formulation of the drug: free, pld, tsl, ph or a TOML file.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    drug_dose: Annotated[
        str | None,
        typer.Option(help="Dose of the drug: 5mg/kg, 50mg/m2 or 0.1mg.", rich_help_panel=_PANEL),
    ] = None,
    species: Species = None,
    body_weight_kg: BodyWeight = None,
    body_surface_m2: BodySurface = None,
    infusion_min: Annotated[
        float | None,
        typer.Option(
            "--infusion",
            help="Duration of the infusion of the drug, min. Default: 0, a bolus.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    schedule: Annotated[
        Path | None,
        typer.Option(
            help="Schedule of doses, heating and radiation (TOML) in place of these options.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    plasma: Annotated[
        Path | None,
        typer.Option(
            help="Measured drug in plasma (TSV), in place of the population's curve.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
) -> dict[str, Any]:
    """Fields of :class:`nanopinn.settings.StudySettings` by name; None where not given."""
    return dict(locals())


#: Options of the subject, which arms of a treatment need as a fit does.
SUBJECT_OPTIONS = ("--species", "--body-weight", "--body-surface")


def name_study_options(study: Mapping[str, Any]) -> dict[str, Any]:
    """Options with their values as another command takes them; None where not given.

    Args:
        study: from :func:`collect_study_options`. Files are given by their absolute path.
    """
    names = map_parameters_to_options(collect_study_options)
    formulation = study["formulation"]
    if formulation is not None and formulation.strip().endswith(".toml"):
        study = {**study, "formulation": Path(formulation.strip())}
    return {
        names[name]: given.absolute() if isinstance(given, Path) else given
        for name, given in study.items()
    }


def with_study_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the options of :func:`collect_study_options`, as its argument ``study``."""
    # an argument before it is no option, so its type is not needed at run time
    own = inspect.signature(command, eval_str=True, locals={"ImagingInputs": object}).parameters
    shared = inspect.signature(collect_study_options, eval_str=True).parameters

    def run(*inputs: Any, **given: Any) -> T:
        study = collect_study_options(**{name: given.pop(name) for name in shared})
        return command(*inputs, study=study, **given)

    options = [q for p in own.values() for q in (shared.values() if p.name == "study" else (p,))]
    ordered = [
        p if p.name == "inputs" else p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options
    ]
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in ordered}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
