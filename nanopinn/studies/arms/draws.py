"""A tumour with what is known of it: tissue as a fit left it, and the posterior of its unknowns.

Joint draws of everything a treatment's outcome rests on: the fit's posterior, and priors of all
else.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from nanopinn.errors import InputError
from nanopinn.inference.device import on_device
from nanopinn.inference.fitted_problem import FittedProblem, fitted_problem_of
from nanopinn.inference.nuisance_scales import AIF_SCALE
from nanopinn.inference.radiation_effect import (
    RadiationEffect,
    describe_radiation_effect,
    draw_radiation_effect,
)
from nanopinn.inference.saved_fit import FILE, fit_file_path, load_fit
from nanopinn.inference.unknowns import UnknownSet
from nanopinn.parameters import PARAMETERS, Parameter
from nanopinn.parameters.table import RANGE_INTERPRETATION
from nanopinn.parameters.unknown_registry import default_scalars
from nanopinn.physics.formulation_library import PH_SENSITIVE
from nanopinn.physics.radiation import RADIATION_FACTOR_SYMBOLS
from nanopinn.physics.tissue_maps import MARGIN_M
from nanopinn.solvers.grid import Domain
from nanopinn.studies.tissue_source import SimulatedTissue, tissue_from_phantom

if TYPE_CHECKING:
    from nanopinn.settings import PhantomSettings

if TYPE_CHECKING:
    from nanopinn.physics.formulation import Formulation
    from nanopinn.studies.arms.arm_specs import Arm


Array = NDArray[np.float64]

#: Largest values of scalars that are shares by definition: no wall lets through more than all of
#: what is filtered.
SCALAR_UPPER_BOUNDS = {"leak_l": 1.0}


@dataclass(frozen=True)
class Patient:
    """Tissue with what is known of its scalars.

    Attributes:
        tissue: maps, grid and box, with the scalars (and weights of functions) at their medians.
        names: of the unknowns, in order: scalars, weights of functions, and ``aif_scale`` last
            where it was fitted; () where everything is known.
        mean, covariance: of the unknowns' coordinates (logarithm or value), ``(m,)`` and ``(m,
            m)``.
        unknowns: what the coordinates mean.
        flow_refine, rim: cells of the flow per voxel edge, and how near to the tumour's edge (m),
            as in the fit.
        imaged: name of the formulation that post-dose images showed, if there were any.
    """

    tissue: SimulatedTissue
    names: tuple[str, ...] = ()
    mean: Array = field(default_factory=lambda: np.zeros(0))
    covariance: Array = field(default_factory=lambda: np.zeros((0, 0)))
    unknowns: UnknownSet = field(default_factory=lambda: UnknownSet(()))
    flow_refine: int = 1
    rim: float | None = None
    imaged_formulation: str | None = None

    @classmethod
    def from_result_folder(cls, folder: str | Path, device: str = "cpu") -> Patient:
        """The tumour of a ``nanopinn fit`` folder, exactly as fitted, with its posterior.

        Raises:
            InputError: it holds no fit (that of ``nanopinn maps`` holds none), or one that cannot
                be read.
        """
        folder = Path(folder)
        if not fit_file_path(folder).is_file() and (folder / "maps").is_dir():
            raise InputError(
                "the folder holds maps but no posterior",
                file=folder,
                found=f"no {FILE}",
                expected="the --out of `nanopinn fit`",
                remedy=(
                    "Run `nanopinn fit` on the same scan, or ask for 0 draws: every scalar then has"
                    " its table value."
                ),
            )
        fit = load_fit(folder)
        patient = cls.from_checkpoint(
            on_device(fitted_problem_of(fit, "a comparison of treatments"), device),
            fit.covariance,
            fit.mask,
            fit.affine,
            name=str(folder),
        )
        informed = ", ".join(s.label for s in fit.scalars if s.informed) or "nothing"
        said = (
            f"Of the fit's unknowns the images informed {informed}; the others carry their priors."
        )
        tissue = replace(
            patient.tissue,
            assumptions=(*patient.tissue.assumptions, said),
            files=(fit_file_path(folder),),
        )
        return replace(patient, tissue=tissue)

    @classmethod
    def from_checkpoint(
        cls,
        ended: FittedProblem,
        covariance: Array,
        mask: NDArray[np.bool_],
        affine: Array,
        *,
        name: str = "the fit",
    ) -> Patient:
        """The tumour of a fit at hand.

        Args:
            covariance: of every unknown, ``(m, m)``. mask, affine: of the scan that the fit's box
                was cut from.

        Raises:
            InputError: they do not belong together, or the posterior is not finite.
        """
        problem, point = ended.problem, ended.full_theta
        maps, grid = problem.setting.maps, problem.setting.grid
        domain = Domain.from_mask(mask, grid.spacing, MARGIN_M, maps.cut)
        if domain.shape != grid.shape or not np.array_equal(
            domain.crop(mask.astype(float), 0.0), maps.tumour.cpu().numpy()
        ):
            raise InputError(
                "the fit's box does not belong to its mask",
                file=name,
                found=domain.shape,
                expected=str(grid.shape),
                remedy="Run the fit again with this version.",
            )
        if covariance.shape != (len(point), len(point)) or not np.isfinite(covariance).all():
            raise InputError(
                "the fit's posterior cannot be used",
                file=name,
                field="covariance",
                found=covariance.shape,
                expected=f"finite, {len(point)} x {len(point)}",
                remedy="Run the fit again.",
            )
        notes: tuple[str, ...] = (
            (
                f"Tissue and scalars are as fitted; {len(point)} unknowns are uncertain as the"
                " fit's Laplace posterior says. What the fit assumed holds here too: its report"
                " lists it."
            ),
        )
        if problem.setting.release_jump_times_s:
            notes = (
                *notes,
                (
                    "Changes of the release rate in time are of the dose that was imaged: arms"
                    " release as before the first."
                ),
            )
        tissue = SimulatedTissue(maps, grid, domain, {}, affine, mask, notes)
        names = (*problem.unknowns.names, *((AIF_SCALE,) if ended.aif_sd else ()))
        imaged_formulation = PH_SENSITIVE.name if problem.drug else None
        patient = cls(
            tissue,
            names,
            point,
            covariance,
            problem.unknowns,
            problem.setting.flow_refine,
            problem.setting.rim,
            imaged_formulation,
        )
        median = {
            k: float(v[0]) if v.ndim == 1 else v[0]
            for k, v in patient.scalars_at(point[None]).items()
        }
        return replace(patient, tissue=replace(tissue, scalars=median))

    @classmethod
    def from_phantom(cls, settings: PhantomSettings, device: str = "cpu") -> Patient:
        """The digital phantom's tumour, whose tissue and scalars are known."""
        return cls(tissue_from_phantom(settings, device), flow_refine=2)

    def with_prior_uncertainty(self) -> Patient:
        """The same tissue, with the unknowns of the fit as uncertain as before any image."""
        u, extra = self.unknowns, self.names[len(self.unknowns) :]
        if extra:
            raise InputError(
                "the prior of the arterial input's scale is not part of a posterior", field=extra[0]
            )
        median = {
            k: float(v[0]) if v.ndim == 1 else v[0]
            for k, v in self.scalars_at(u.prior_mean[None]).items()
        }
        return replace(
            self,
            tissue=replace(self.tissue, scalars=median),
            mean=u.prior_mean,
            covariance=np.diag(u.prior_sd**2),
        )

    def scalars_at(self, theta: Array) -> dict[str, Array]:
        """Model scalars (SI) ``(n,)``, and weights of functions ``(n, k)``, at coordinates ``(n,
        m)``.
        """
        found = self.unknowns.scalars(
            torch.as_tensor(np.ascontiguousarray(theta[:, : len(self.unknowns)].T))
        )
        plain = {name: np.asarray(v.numpy().T) for name, v in found.items()}
        return {
            name: np.minimum(v, SCALAR_UPPER_BOUNDS[name]) if name in SCALAR_UPPER_BOUNDS else v
            for name, v in plain.items()
        }

    def relative_aif_scale(self, theta: Array) -> Array:
        """What PS, phi and v_p of the maps are divided by at coordinates ``(n, m)``: the arterial
        input's scale over its estimate.
        """
        if AIF_SCALE not in self.names:
            return np.ones(len(theta))
        at = self.names.index(AIF_SCALE)
        return np.asarray(np.exp(theta[:, at] - self.mean[at]))

    def __repr__(self) -> str:
        known = ", ".join(
            f"{n} +- {sd:.2g}"
            for n, sd in zip(self.names, np.sqrt(np.diag(self.covariance)), strict=True)
        )
        return (
            f"Patient({'x'.join(map(str, self.tissue.grid.shape))} voxels;"
            f" {known or 'every scalar known'})"
        )


#: What every arm rests on beside its formulation: walls and interstitium, cells, vessels and oxygen
#: under the voxel, cell kill.
WALLS = ("SV_t", "P_f_t", "sigma_f", "D_f_t", "P_b_t", "sigmaT_t", "D_b_t", "k_a", "k_d")
CELLS = ("rho_c", "Vmax", "K_e", "K_i", "k_off_DNA", "g_pH")
VESSELS = ("Hct", "tau_c", "R_c", "spread_Rt", "D_O2", "M_O2", "p_O2_v")
KILL = ("EC50_i", "m_hill", "f_max", "k_kill_H", "res_q")
#: Conventions: where a law is stated, or what a word means. They have no uncertainty to draw.
CONVENTIONS = frozenset({"pH_ref", "T_hot", "T_body", "RT_D", "HT_T", "p_O2_hyp", "p_O2_nec"})


@dataclass(frozen=True)
class InputDraws:
    """Everything uncertain, drawn together: row 0 is the median of everything, the others are
    draws.

    Attributes:
        scalars: of the model (SI), ``(draw,)``; weights of functions ``(draw, k)``.
        values: other parameters by symbol (SI), ``(draw,)``.
        relative_aif_scale: what PS, phi and v_p of the maps are divided by, ``(draw,)``: 1 unless
            the arterial input's scale was fitted.
        assumptions: how they were drawn, one sentence each.
    """

    scalars: Mapping[str, Array]
    values: Mapping[str, Array]
    relative_aif_scale: Array
    assumptions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.relative_aif_scale)

    def select_draws(self, chosen: slice) -> InputDraws:
        """Some of the draws."""
        scalars, values = (
            {n: v[chosen] for n, v in of.items()} for of in (self.scalars, self.values)
        )
        return InputDraws(scalars, values, self.relative_aif_scale[chosen], self.assumptions)

    def scalars_at_draw(self, i: int) -> dict[str, float | Array]:
        """Scalars of one draw."""
        return {name: float(v[i]) if v.ndim == 1 else v[i] for name, v in self.scalars.items()}

    def inputs(self) -> dict[str, Array]:
        """Every number that varies from draw to draw, ``(draw,)``, by name."""
        plain = {n: v for n, v in self.scalars.items() if v.ndim == 1}
        weights = {
            f"{n}[{k}]": v[:, k]
            for n, v in self.scalars.items()
            if v.ndim == 2
            for k in range(v.shape[1])
        }
        every = {**plain, **weights, **self.values, "aif_scale": self.relative_aif_scale}
        return {n: v for n, v in every.items() if np.ptp(v) > 0}


def draw_inputs(
    patient: Patient,
    arms: Sequence[Arm],
    n: int,
    seed: int,
    *,
    radiation: RadiationEffect | None = None,
) -> InputDraws:
    """Draw all that the arms rest on ``n`` times, beside the median.

    A draw is the same whatever n is and whichever arms are compared: every quantity has its own
    stream of random numbers.

    Args:
        radiation: what two scans say of radiation's effect, in place of the table's priors.

    Raises:
        InputError: ``n`` is negative.
    """
    if n < 0:
        raise InputError(
            "a number of draws is not negative",
            field="draws",
            found=n,
            expected="0 (the median alone) or more",
        )
    theta = posterior_draws(patient, n, seed)
    scalars = patient.scalars_at(theta) if patient.names else {}
    known = {**default_scalars(), **patient.tissue.scalars}
    scalars |= {
        k: np.repeat(np.asarray(v)[None], n + 1, axis=0)
        for k, v in known.items()
        if k not in scalars
    }
    values = {
        p.symbol: draw_parameter(p, n, seed)
        for p in uncertain_parameters(arms)
        if p.symbol not in scalars
    }
    if radiation is not None and any(a.treatment.radiation.fractions for a in arms):
        values |= _draw_radiation_effect(radiation, values, n, seed)
    return InputDraws(
        scalars,
        values,
        patient.relative_aif_scale(theta),
        tuple(_notes(patient, arms, values, n, radiation)),
    )


def posterior_draws(patient: Patient, n: int, seed: int) -> Array:
    """Coordinates of the fit's unknowns, ``(n + 1, m)``, the estimate first."""
    m = len(patient.names)
    z = np.concatenate(
        [np.zeros((1, m)), _random_stream("posterior", seed).standard_normal((n, m))]
    )
    variances, axes = np.linalg.eigh(patient.covariance)
    # the symmetric root is the only one that is the same whatever sign an eigenvector comes with
    root = (axes * np.sqrt(variances.clip(0.0))) @ axes.T
    return np.asarray(patient.mean + z @ root)


def draw_parameter(parameter: Parameter, n: int, seed: int) -> Array:
    """A parameter, ``(n + 1,)``: its value first, then draws from its prior or range."""
    spread = parameter.distribution()
    assert spread is not None
    return spread.values_at_deviates(
        np.append(0.0, _random_stream(parameter.symbol, seed).standard_normal(n))
    )


def uncertain_parameters(arms: Sequence[Arm]) -> tuple[Parameter, ...]:
    """Parameters, of the table and of formulations' own, that some arm rests on and that have an
    uncertainty.
    """
    wanted = {s: PARAMETERS[s] for s in (*WALLS, *CELLS, *VESSELS, *KILL)}
    for f in arm_formulations(arms):
        wanted |= {s: f.parameter(s) for s in f.symbols()}
    if any(a.treatment.radiation.fractions for a in arms):
        wanted |= _parameters_with_prefix("RT_")
    if any(a.treatment.heating_intervals_s for a in arms):
        wanted |= _parameters_with_prefix("HT_")
    return tuple(
        p for s, p in wanted.items() if s not in CONVENTIONS and p.distribution() is not None
    )


def arm_formulations(arms: Sequence[Arm]) -> tuple[Formulation, ...]:
    """Every formulation that some arm gives."""
    return tuple(dict.fromkeys(g.formulation for a in arms for g in a.treatment.doses))


def _random_stream(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _parameters_with_prefix(prefix: str) -> dict[str, Parameter]:
    return {s: p for s, p in PARAMETERS.items() if s.startswith(prefix)}


def _draw_radiation_effect(
    radiation: RadiationEffect, values: Mapping[str, Array], n: int, seed: int
) -> dict[str, Array]:
    z = np.concatenate(
        [
            np.zeros((1, len(RADIATION_FACTOR_SYMBOLS))),
            _random_stream("radiation", seed).standard_normal((n, len(RADIATION_FACTOR_SYMBOLS))),
        ]
    )
    logs = draw_radiation_effect(radiation, z, values["RT_t_peak"])
    return {
        symbol: np.exp(logs[:, radiation.names.index(name)])
        for name, symbol in RADIATION_FACTOR_SYMBOLS.items()
    }


def _notes(
    patient: Patient,
    arms: Sequence[Arm],
    values: Mapping[str, Array],
    n: int,
    radiation: RadiationEffect | None,
) -> Iterable[str]:
    if n:
        yield (
            f"{n} joint draws: unknowns of the fit from its posterior, {len(values)} other"
            " parameters independently of each other."
        )
        yield RANGE_INTERPRETATION
    if not patient.names:
        yield "Scalars of the tissue are known, not inferred: they are the same in every draw."
    for f in arm_formulations(arms):
        if f.permeability == "PS_l" and f.name != patient.imaged_formulation and patient.names:
            of = (
                f"images of the {patient.imaged_formulation} carrier"
                if patient.imaged_formulation
                else "a prior, for no image showed a carrier"
            )
            yield f"{f.name}: its passage through vessel walls (PS_l, leak_l) is taken from {of}."
    if radiation is not None:
        yield describe_radiation_effect(radiation)
