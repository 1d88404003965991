"""What kinetic models are made of: unit to read, unit to compute in, and the name in OSIPI's lexicon (CAPLEX)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KineticQuantity:
    """A kinetic quantity.

    Attributes:
        unit: in which people read it. per_si: how many of it make one of the unit computed in (1/s, 1 or s).
        caplex_id, caplex_name: OSIPI_CAPLEX, https://osipi.github.io/OSIPI_CAPLEX/quantities (Dickie 2024, MRM 91:1761).
    """

    name: str
    unit: str
    per_si: float
    description: str
    caplex_id: str
    caplex_name: str

    @property
    def caplex(self) -> dict[str, str]:
        """For sidecars."""
        return {"Id": self.caplex_id, "Name": self.caplex_name}


QUANTITIES = {
    q.name: q
    for q in (
        KineticQuantity(
            "Ktrans",
            "1/min",
            60.0,
            "volume transfer constant",
            "Q.PH1.008",
            "Volume transfer constant",
        ),
        KineticQuantity(
            "ve",
            "1",
            1.0,
            "volume fraction of the extravascular extracellular space",
            "Q.PH1.001.[e]",
            "Relative volume fraction",
        ),
        KineticQuantity(
            "vp",
            "1",
            1.0,
            "volume fraction of blood plasma",
            "Q.PH1.001.[p]",
            "Relative volume fraction",
        ),
        KineticQuantity(
            "Fp", "mL/min/100mL", 6000.0, "blood plasma flow", "Q.PH1.002", "Blood plasma flow"
        ),
        KineticQuantity(
            "PS",
            "mL/min/100mL",
            6000.0,
            "permeability surface area product",
            "Q.PH1.004",
            "Permeability surface area product",
        ),
        KineticQuantity(
            "delay",
            "s",
            1.0,
            "arrival after the arterial input",
            "Q.PH1.007",
            "Arterial delay time",
        ),
    )
}
