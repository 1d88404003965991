"""Scalars and spatial multipliers of the tumour model by name, and the table row of each.

A fit may move every one of them; a formulation may replace those that describe its carrier.
"""

from __future__ import annotations

from nanopinn.parameters.table import value

#: Scalars of the model that an inference may move, with the symbol whose table value is the
#: default.
SCALARS = {
    "l": "l_t",
    "q": "LpSV_t",
    "p_e": "p_e",
    "K_ratio_n": "K_ratio_n",
    "PS_l": "PS_l",
    "leak_l": "leak_l",
    "f_l": "f_l",
    "krel_ref": "krel_ref",
    "pK_rel": "pK_rel",
    "k_on_DNA": "k_on_DNA",
}

#: Multipliers of a tissue property that vary in space, with the property that each multiplies.
MULTIPLIERS = {
    "conductivity": "hydraulic conductivity K",
    "filtration": "wall filtration Lp S/V",
    "permeability": "carrier permeability PS_l",
    "release": "release rate",
}
#: Weights of the monotone warp of pH in the release law (:func:`nanopinn.physics.release.warp_ph`).
RELEASE_LAW = "release law"
#: Fluid that enters through a face of the box that cuts the tumour, velocity over ``q l``.
INFLOW = "inflow"

_RELEASE_MULTIPLIER_PREFIX = "release_"


def release_multiplier_name(segment: int) -> str:
    """Name of the scalar that multiplies the release rate in a time segment.

    The first segment, number 0, has no multiplier: it would be exactly correlated with the rate.
    """
    return f"{_RELEASE_MULTIPLIER_PREFIX}{segment}"


def is_release_multiplier(name: str) -> bool:
    """Whether a scalar multiplies the release rate in one time segment."""
    return name.startswith(_RELEASE_MULTIPLIER_PREFIX)


def default_scalars() -> dict[str, float]:
    """Table values of the scalars in SI, with the maximum filtration rate ``q = Lp S/V p_e``."""
    scalars = {name: value(symbol) for name, symbol in SCALARS.items()}
    scalars["q"] = value("LpSV_t") * value("p_e")
    return scalars
