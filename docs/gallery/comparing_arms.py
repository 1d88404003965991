"""Comparing arms: the same dose as free drug and in thermosensitive liposomes, simulated in the
tumour of a fit.
"""

from sample import WORK, result

import nanopinn

settings = nanopinn.ComparisonSettings(
    arms=("free", "tsl"),
    dose={"mg_per_m2": 50},
    heat=({"temperature_C": 42, "minutes": 30},),
    end_h=4,
    draws=2,
    groups=2,
    heating_min=(),
    sensitivity=False,
)
found = nanopinn.compare_arms(settings, folder=result())
print("\n".join(found.conclusions), end="\n\n")
for outcome in found.outcomes:
    cells = {arm: outcome.interval(arm) for arm in found.arms}
    print(
        f"{outcome.description}, {outcome.unit}:",
        "; ".join(f"{a} {m:.3g} ({lo:.3g} to {hi:.3g})" for a, (m, lo, hi) in cells.items()),
    )
print(
    "Written:",
    nanopinn.write_comparison(
        WORK / "arms", found, {"arms": settings.model_dump()}, overwrite=True
    ),
)
