"""Description of a tumour model: its equations and every parameter with unit and source."""

from __future__ import annotations

from collections.abc import Mapping

from nanopinn.parameters import PARAMETERS, SCALARS
from nanopinn.physics import cell_kill, drug_pools, flow, release
from nanopinn.physics.tumour import TumourModel

#: Parts of the model: title, module whose docstring states the equations, symbols of parameters.
MODEL_SECTIONS = (
    (
        "Interstitial flow and exchange through the vessel wall",
        flow,
        (
            "l_t",
            "p_e",
            "LpSV_t",
            "LpSV_n",
            "LpLSL_n",
            "K_ratio_n",
            "p_e_n",
            "p_L",
            "p_inf",
            "sigma_Gd",
            "D_Gd",
            "SV_t",
            "SV_n",
            "PS_l",
            "leak_l",
            "P_l_n",
            "sigma_l_n",
        ),
    ),
    (
        "Drug",
        drug_pools,
        (
            "D_l_t",
            "f_l",
            "k_d_lip",
            "D_f_t",
            "D_f_n",
            "P_f_t",
            "P_f_n",
            "sigma_f",
            "D_b_t",
            "P_b_t",
            "P_b_n",
            "sigmaT_t",
            "sigmaT_n",
            "k_a",
            "k_d",
            "fb",
            "tau_c",
        ),
    ),
    ("Release", release, ("krel_ref", "krel0_pH", "pK_rel", "n_rel", "pH_ref", "T_body")),
    ("Cells", cell_kill, ("rho_c", "Vmax", "K_e", "K_i", "g_pH", "k_on_DNA", "k_off_DNA")),
)


def describe_model(model: TumourModel) -> str:
    """Describe a tumour model: its equations and every parameter, with unit and source.

    Args:
        model: whose scalars are shown in place of the table's values.
    """
    return format_model_equations(
        {
            s.symbol: float(model.scalars[name])
            for name, s in SCALARS.items()
            if s.symbol is not None and s.factor_symbol is None
        }
    )


def format_model_equations(values: Mapping[str, float]) -> str:
    """Format the equations of every part with the parameters in them.

    Args:
        values: of parameters by symbol, where they differ from the table's; SI.

    Returns:
        One section for each part, with a line for each parameter.
    """
    return "\n\n".join(
        _format_section(title, (part.__doc__ or "").strip(), symbols, values)
        for title, part, symbols in MODEL_SECTIONS
    )


def _format_section(
    title: str, equations: str, symbols: tuple[str, ...], values: Mapping[str, float]
) -> str:
    return "\n".join(
        [
            title,
            "=" * len(title),
            equations,
            "",
            *(_format_parameter_line(s, values) for s in symbols),
        ]
    )


def _format_parameter_line(symbol: str, values: Mapping[str, float]) -> str:
    p = PARAMETERS[symbol]
    used = values.get(symbol, p.value)
    changed = "" if abs(used - p.value) <= 1e-12 * abs(p.value) else f" (table: {p.value:g})"
    unit = "" if p.unit == "1" else f" {p.unit}"
    return f"  {symbol} = {used:g}{unit}{changed}: {p.name} [{p.source_status}: {p.source}]"
