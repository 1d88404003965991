"""Text summaries of treatments, simulations and comparisons of treatment arms."""

from __future__ import annotations

import numpy as np

from nanopinn.parameters import HOUR, ZERO_CELSIUS, value
from nanopinn.physics.treatment import Treatment
from nanopinn.results import Comparison, MassBalance, OutcomeChange, RadiationComparison, Simulation

_HEAT_EFFECTS = (
    "Heat also lowers the driving pressure of vessels (factor {p_e:g} at the end of a heating, for"
    " {hours:g} h) and raises the permeability of their walls to the carrier (factor {P:g},"
    " recovering with a time constant of {t:g} h). These are medians of wide priors from mice,"
    " and the same for every temperature and duration."
)


def heat_assumptions(treatment: Treatment) -> tuple[str, ...]:
    """Assumptions on the effects of the heatings, as sentences.

    Args:
        treatment: with or without heatings.
    """
    found = []
    hottest = max(
        (h.temperature_K for h in treatment.heatings if h.temperature_K is not None), default=0.0
    )
    if hottest > value("T_stasis"):
        found.append(vascular_stasis_warning(hottest))
    if treatment.heating_intervals_s:
        hours, t = (value(s) / HOUR for s in ("HT_t_IFP", "HT_t_Pl"))
        found.append(_HEAT_EFFECTS.format(p_e=value("HT_IFP"), hours=hours, P=value("HT_Pl"), t=t))
    elif treatment.heatings:
        why = "" if treatment.heat_effects is None else f" below {value('HT_T') - ZERO_CELSIUS:g} C"
        found.append(
            "Heat triggers release and changes nothing else: its effects on pressure and walls"
            f" are left out{why}."
        )
    carrier = treatment.carrier
    if treatment.heatings and carrier is not None and not carrier.responds_to_heat:
        found.append(
            f"The release of {carrier.name} does not respond to heat, which does not change it."
        )
    return tuple(found)


def vascular_stasis_warning(T_K: float) -> str:
    """Warning for a temperature at which perfusion shuts down.

    Args:
        T_K: temperature, K.
    """
    return (
        f"Warning: {T_K - ZERO_CELSIUS:.3g} C is above {value('T_stasis') - ZERO_CELSIUS:g} C,"
        " at which perfusion of tumours shuts down. The model keeps the vessels perfused, so that"
        " delivery is overestimated."
    )


def format_assumptions(assumptions: tuple[str, ...] | list[str]) -> str:
    """List assumptions below a heading."""
    return "Assumptions:\n" + "\n".join(f"- {a}" for a in assumptions)


def format_simulation(s: Simulation) -> str:
    """Summarise a simulation: treatment, tumour means, systemic exposure and mass balance."""
    times = next(iter(s.fields.values())).times_s
    lines = [
        *s.treatment,
        "",
        f"{'Tumour mean':20s}" + "".join(f"{f'{t / HOUR:g} h':>12s}" for t in times),
    ]
    for name, f in s.fields.items():
        lines.append(f"{name:20s}" + "".join(f"{v:12.4g}" for v in s.means(name)) + f"  {f.unit}")
    if not s.balance.names:
        return "\n".join([*lines, "", s.solver_statistics])
    lines += ["", f"{'Tumour mean of':20s}{'C_max, ug/mL':>14s}{'AUC, ug h/mL':>16s}"]
    lines += [f"{name:20s}{peak:14.4g}{auc:16.4g}" for name, peak, auc in mean_peaks_and_aucs(s)]
    columns = ("C_max, ug/mL", "t_max, h", "AUC, ug h/mL", "AUC to infinity")
    widths = (14, 10, 16, 18)
    lines += [
        "",
        f"{'Plasma':20s}" + "".join(f"{c:>{w}s}" for c, w in zip(columns, widths, strict=True)),
    ]
    lines += [
        f"{e.name:20s}{e.c_max:14.4g}{e.t_max_s / HOUR:10.3g}{e.auc:16.4g}{e.auc_to_infinity:18.4g}"
        for e in s.exposure
    ]
    return "\n".join([*lines, "", format_mass_balance(s.balance), s.solver_statistics])


def mean_peaks_and_aucs(s: Simulation) -> list[tuple[str, float, float]]:
    """Tumour mean of the peak concentration (ug/mL) and of the AUC (ug h/mL) of each pool."""
    return [
        (
            name,
            float(np.nanmean(s.peak_maps[name].values[s.mask])),
            float(np.nanmean(s.auc_maps[name].values[s.mask])),
        )
        for name in s.peak_maps
    ]


def mass_balance_rows(b: MassBalance) -> list[tuple[str, float, float, float, float]]:
    """Rows of a mass balance, mg: name, entered, lost, outflow, stored; the last row is the sum."""
    columns = np.stack([b.entered, b.lost, b.outflow, b.stored], axis=1)
    every = [*columns, columns.sum(axis=0)]
    return [
        (name, float(entered), float(lost), float(outflow), float(stored))
        for name, (entered, lost, outflow, stored) in zip((*b.names, "all"), every, strict=True)
    ]


def format_mass_balance(b: MassBalance) -> str:
    """Format a mass balance as a table."""
    heads = ("entered", "lost", "outflow", "stored")
    lines = [f"{'Mass balance, mg':20s}" + "".join(f"{h:>13s}" for h in heads)]
    lines += [
        f"{name:20s}" + "".join(f"{v:13.4e}" for v in row) for name, *row in mass_balance_rows(b)
    ]
    return "\n".join([*lines, f"Relative mass-balance error: {b.error:.1e}"])


def format_comparison(c: Comparison) -> str:
    """Summarise a comparison: conclusions, and median and 90 % interval of every outcome."""
    heads = "".join(f"{name:>30s}" for name in c.arms)
    interval = "Median (90 % interval of the prior)" if c.prior_only else "Median (90 % interval)"
    lines = [*c.conclusions, "", f"{interval:52s}{heads}"]
    for o in c.outcomes:
        cells = "".join(f"{_format_interval(o.interval(a)):>30s}" for a in c.arms)
        unit = "" if o.unit == "1" else f", {o.unit}"
        lines.append(f"{o.description[:40] + unit:52s}{cells}")
    return "\n".join(lines)


def _format_interval(interval: tuple[float, float, float]) -> str:
    median, low, high = interval
    if not np.isfinite(median):
        return "-"
    return f"{median:.3g} ({low:.3g} .. {high:.3g})" if low < high else f"{median:.3g}"


def describe_radiation_comparison(r: RadiationComparison) -> str:
    """Describe how radiation changes the outcomes of an arm, and how uncertain that is."""
    parts = "; ".join(
        f"{row.description} {_format_change(row)}, higher in {row.probability_higher:.0%} of the"
        " draws"
        for row in r.rows
    )
    return (
        f"Effect of radiation on {r.arm} (with radiation compared with without, median and 90 %"
        f" interval): {parts}. Its effects on vessels and pressure are priors, inconsistent in the"
        " literature even in their direction, unless a second scan was given."
    )


def _format_change(change: OutcomeChange) -> str:
    median, low, high = change.ratio
    if change.unit == "1":
        return f"{median:+.0%} ({low:+.0%} to {high:+.0%}) of the cells"
    return f"x{median:.2f} ({low:.2f} to {high:.2f})"
