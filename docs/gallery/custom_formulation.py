"""Custom formulation: a liposome defined in a file, compared with the packaged one."""

from pathlib import Path

from sample import result

import nanopinn

file = Path(__file__).parents[1] / "formulations" / "polymer_tsl.toml"
print(nanopinn.read_formulation(file))  # every quantity with its value and source

settings = nanopinn.ComparisonSettings(
    arms=("tsl", str(file)),
    heat=({"temperature_C": 42, "minutes": 30},),
    end_h=4,
    draws=0,
    groups=2,
    heating_min=(),
    sensitivity=False,
)
found = nanopinn.compare_arms(settings, folder=result())
for name, arm in found.arms.items():
    cells = arm.simulation.fields["intracellular"]
    mean = arm.simulation.means("intracellular")[-1]
    print(
        f"{name}: intracellular drug at {cells.times_s[-1] / 3600:g} h, tumour mean"
        f" {mean:.3g} {cells.unit}"
    )
