"""Release of the drug from its carrier."""

from __future__ import annotations

import torch
from torch import Tensor


def acid_release_rate(
    pH: Tensor, k_ref: Tensor | float, k0: Tensor | float, pK: Tensor | float, n: Tensor | float, pH_ref: float
) -> Tensor:
    """Release rate of a pH-sensitive carrier, 1/s.

        k(pH) = k0 + (k_ref - k0) h(pH) / h(pH_ref),    h(pH) = 1 / (1 + 10^{n (pH - pK)})

    This is the Hill law ``k0 + (k_max - k0) h(pH)`` written with its rate at a reference pH in place of
    k_max: tumours are seldom acid enough to show k_max, and k_max and pK would be one ridge.

    Args:
        pH: extracellular pH.
        k_ref: rate at ``pH_ref``, 1/s.
        k0: rate of the untriggered carrier, 1/s.
        pK: pH of half release.
        n: steepness (Hill).
        pH_ref: where ``k_ref`` is stated.
    """
    ln10 = 2.302585092994046
    h = torch.sigmoid(ln10 * n * (pK - pH))
    h_ref = torch.sigmoid(ln10 * n * (torch.as_tensor(pK, dtype=pH.dtype) - pH_ref))
    return k0 + (k_ref - k0) * h / h_ref
