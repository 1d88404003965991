"""Units in SI: multiply by one to get from it to SI, divide to get back."""

from __future__ import annotations

#: Time, s.
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
#: Length, m.
UM, MM = 1e-6, 1e-3
#: Mass, kg.
NG, UG, MG = 1e-12, 1e-9, 1e-6
#: Concentration, kg/m3, and its integral over time, kg s/m3.
UG_PER_ML = 1e-3
UG_H_PER_ML = UG_PER_ML * HOUR
#: Pressure, Pa.
MMHG = 133.322
#: 0 degrees Celsius, K.
ZERO_CELSIUS = 273.15
