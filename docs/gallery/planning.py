"""Planning a protocol: which unknowns a scan is expected to inform, and which drug image adds most
information.
"""

import nanopinn

settings = nanopinn.PlanSettings(
    tumour_mm=(3.0, 3.0, 2.0),
    frames=20,
    frame_spacing_s=15.0,
    draws=1,
    candidates=("encapsulated@2", "released@24"),
)
plan = nanopinn.plan_protocol(settings)
print(nanopinn.format_plan(plan))
