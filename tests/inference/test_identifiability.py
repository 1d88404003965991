"""Identifiability before a fit: structural rules agree with the Jacobian, null directions are
described, and problems that cannot be fitted are refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanopinn.errors import InputError
from nanopinn.inference.inverse_problem import InverseProblem
from nanopinn.inference.problem import Linearisation
from nanopinn.inference.uncertainty.identifiability import (
    MIN_INFORMATION,
    describe_limits,
    expected_contraction,
    linearise_at_prior,
    numerical_limits,
    structural_limits,
    validate_priors,
    validate_problem,
)
from nanopinn.inference.unknowns import Unknown, UnknownSet, scalar_unknowns
from nanopinn.parameters import drug_only_scalars
from tests.variants import for_each

from .linear import unknowns
from .test_engines import small_problem

#: Unknowns of a carrier that acid triggers on which drug images alone depend.
DRUG_ONLY = drug_only_scalars() & {u.name for u in scalar_unknowns()}


@pytest.fixture(scope="module")
def problem() -> InverseProblem:
    p, _ = small_problem()
    return p


@pytest.fixture(scope="module")
def expansion(problem: InverseProblem) -> Linearisation:
    return linearise_at_prior(problem)


def only(
    problem: InverseProblem, expansion: Linearisation, keep: list[int]
) -> tuple[InverseProblem, Linearisation]:
    """The problem with some of its drug images, and the corresponding rows of the Jacobian."""
    counts = [problem.contrast.measured.numel(), *(d.count for d in problem.drug)]
    blocks = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    rows = np.concatenate([blocks[0], *(blocks[i + 1] for i in keep)])
    images = tuple(problem.drug[i] for i in keep)
    return replace(problem, drug=images), Linearisation(
        expansion.residual[rows], expansion.jacobian[rows]
    )


@pytest.mark.parametrize(
    ("keep", "alone"),
    [([], {"p_e"} | DRUG_ONLY), ([0, 2], {"p_e", "k_on_DNA"}), ([0, 1, 2, 3], {"p_e"})],
)
def test_structural_rules_name_exactly_the_zero_columns_of_the_jacobian(
    problem, expansion, keep, alone
) -> None:
    part, rows = only(problem, expansion, keep)
    said = {n for limit in structural_limits(part) if limit.separately for n in limit.unknowns}
    assert said == alone
    information = ((rows.jacobian * part.unknowns.prior_sd) ** 2).sum(axis=0)
    assert {
        n for n, i in zip(part.unknowns.names, information, strict=True) if i < MIN_INFORMATION
    } == alone
    assert {
        n
        for limit in numerical_limits(part.unknowns, rows)
        if limit.separately
        for n in limit.unknowns
    } == alone


def test_released_drug_alone_identifies_only_the_product_of_entry_and_release(
    problem, expansion
) -> None:
    part, rows = only(problem, expansion, [1])
    product = next(
        limit
        for limit in structural_limits(part)
        if "krel_ref" in limit.unknowns and "PS_l" in limit.unknowns
    )
    assert not product.separately
    # the released amount is proportional to the product of entry (both ways through the wall) and
    # release, so the columns are parallel
    image = rows.jacobian[-part.drug[0].count :]
    entry, release = (
        image[:, [part.unknowns.names.index(n) for n in names]].sum(axis=1)
        for names in (("PS_l", "leak_l"), ("krel_ref",))
    )
    assert entry @ release / np.linalg.norm(entry) / np.linalg.norm(release) > 0.999


def test_without_drug_images_the_release_law_is_reported_beside_the_scaling(
    problem, expansion
) -> None:
    assert (
        sum(
            "p_e" in words and "(K, Lp, p_e)" in words
            for words in describe_limits(problem, expansion)
        )
        == 1
    )
    assert not any("No drug image" in words for words in describe_limits(problem, expansion))
    without = describe_limits(*only(problem, expansion, []))
    assert any("No drug image was given" in words and "release rate" in words for words in without)
    # reported once, with its reason
    assert sum("nuclear binding" in words for words in without) == 1


@pytest.mark.parametrize(
    ("Ktrans", "ve", "named"),
    [(0.02, 0.03, []), (0.5, 0.2, ["Ktrans"]), (0.3, 0.4, ["Ktrans", "ve"])],
)
def test_imprecise_kinetic_maps_are_named_with_their_median_error(
    problem, expansion, Ktrans, ve, named
) -> None:
    covariance = torch.zeros_like(problem.kinetic_covariance)
    for i, sd in enumerate((Ktrans, ve)):
        # voxels outside the tumour do not count
        covariance[i, i] = torch.where(problem.setting.maps.tumour > 0.5, sd**2, 1.0)
    sentences = [
        words
        for words in describe_limits(replace(problem, kinetic_covariance=covariance), expansion)
        if "maps are imprecise" in words
    ]
    assert len(sentences) == bool(named)
    for name, sd in (("Ktrans", Ktrans), ("ve", ve)):
        assert (f"{name} (median error {sd:.0%})" in "".join(sentences)) == (name in named)


def test_a_null_direction_is_described_by_the_unknowns_in_it() -> None:
    names = unknowns("a", "b", "c", "d", sd=0.5)
    J = np.array([[3.0, 3.0, 0, 0], [0, 0, 5.0, 0]])
    limits = numerical_limits(names, Linearisation(np.zeros(2), J))
    assert [(set(x.unknowns), x.separately) for x in limits] == [({"d"}, True), ({"a", "b"}, False)]
    assert "label of a up" in limits[1].explanation or "label of b up" in limits[1].explanation
    assert "down (-1.00 prior sd)" in limits[1].explanation
    contraction = expected_contraction(names, Linearisation(np.zeros(2), J))
    assert contraction[3] == 0
    assert contraction[2] == pytest.approx(1 - 1 / np.sqrt(1 + 2.5**2))


def unknown(**change: object) -> Unknown:
    return replace(Unknown("leak_l", "leak", "1", 1.0, "log", 0.1, 0.7), **change)  # type: ignore[arg-type]


@for_each(
    "change, words",
    [
        ({"prior_sd": 0.0}, "positive standard deviation"),
        ({"prior_sd": float("nan")}, "positive standard deviation"),
        ({"prior_median": -1.0}, "median of a prior is invalid"),
        ({"prior_median": float("inf"), "scale": "linear"}, "median of a prior is invalid"),
    ],
)
def test_an_invalid_prior_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        unknown(**change)
    assert "leak_l" in str(error.value)


def test_an_unknown_with_two_priors_is_refused() -> None:
    with pytest.raises(InputError, match="two priors") as error:
        validate_priors(UnknownSet((unknown(), unknown())))
    assert "leak_l" in str(error.value)


def test_a_prior_wholly_outside_the_range_of_its_parameter_is_refused(
    problem: InverseProblem,
) -> None:
    others = problem.unknowns.without({"leak_l"}).items
    with pytest.raises(InputError, match="contradicts the range") as error:
        validate_problem(
            replace(
                problem, unknowns=UnknownSet((*others, unknown(prior_median=30.0, prior_sd=0.5)))
            )
        )
    assert "0.05 to 0.8" in str(error.value)


def test_a_valid_problem_is_accepted(problem: InverseProblem) -> None:
    validate_problem(problem)


def spoiled(values: torch.Tensor, where: torch.Tensor, by: float) -> torch.Tensor:
    out = values.clone()
    out[tuple(torch.nonzero(where)[0])] = by
    return out


def with_image(p: InverseProblem, **change: object) -> InverseProblem:
    return replace(p, drug=(replace(p.drug[0], **change), *p.drug[1:]))  # type: ignore[arg-type]


BAD = {
    "noise of contrast agent": lambda p: replace(
        p, contrast=replace(p.contrast, noise_sd=0 * p.contrast.noise_sd)
    ),
    "noise of encapsulated at 1 h": lambda p: with_image(
        p, noise_sd=spoiled(p.drug[0].noise_sd, p.drug[0].voxels, 0.0)
    ),
    "encapsulated at 1 h": lambda p: with_image(
        p, measured=spoiled(p.drug[0].measured, p.drug[0].voxels, float("nan"))
    ),
    "contrast agent": lambda p: replace(
        p, contrast=replace(p.contrast, measured=p.contrast.measured * float("inf"))
    ),
    "drug": lambda p: with_image(p, time_s=-60.0),
    "aif": lambda p: replace(p, frame_times=p.frame_times + 1000.0),
    "frame_times": lambda p: replace(p, frame_times=p.frame_times[::-1]),
}


@for_each("field", BAD)
def test_unusable_data_are_refused_with_their_field(problem: InverseProblem, field: str) -> None:
    with pytest.raises(InputError) as error:
        validate_problem(BAD[field](problem))
    assert error.value.field == field


def test_a_voxel_outside_the_fit_may_be_nan(problem: InverseProblem) -> None:
    outside = ~problem.drug[0].voxels
    validate_problem(
        with_image(problem, measured=spoiled(problem.drug[0].measured, outside, float("nan")))
    )
