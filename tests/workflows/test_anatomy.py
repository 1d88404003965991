"""The phantom's tissue is a tumour in normal tissue, however small the field of view."""

from __future__ import annotations

import numpy as np
import pytest

from nanopinn.workflows.phantom.anatomy import draw_anatomy


@pytest.mark.parametrize("shape", [(8, 8, 5), (10, 10, 6), (16, 16, 10)])
def test_a_small_phantom_has_a_tumour_in_normal_tissue_and_a_ph_of_tissue(shape: tuple[int, int, int]) -> None:
    for seed in range(8):
        anatomy = draw_anatomy((2 * shape[0], 2 * shape[1], 2 * shape[2]), (0.25, 0.25, 0.25), np.random.default_rng(seed))
        assert 0.03 < anatomy.tumour.mean() < 0.4
        assert anatomy.pH.min() > 6.0
        assert anatomy.pH.max() < 8.0
