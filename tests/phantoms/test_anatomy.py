"""The phantom's tissue is a tumour in normal tissue at any size of the field of view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanopinn.errors import InputError
from nanopinn.phantoms.synthetic_study import make_phantom
from nanopinn.phantoms.truth import draw_anatomy
from nanopinn.settings import PhantomSettings


@pytest.mark.parametrize("shape", [(8, 8, 5), (10, 10, 6), (16, 16, 10)])
def test_a_small_phantom_has_a_tumour_in_normal_tissue_and_a_plausible_ph(
    shape: tuple[int, int, int],
) -> None:
    for seed in range(8):
        anatomy = draw_anatomy(
            (2 * shape[0], 2 * shape[1], 2 * shape[2]),
            (0.25, 0.25, 0.25),
            np.random.default_rng(seed),
        )
        assert 0.03 < anatomy.tumour.mean() < 0.4
        assert anatomy.pH.min() > 6.0
        assert anatomy.pH.max() < 8.0


@pytest.mark.parametrize("shape", [(2, 2, 2), (5, 5, 2), (1, 1, 1)])
def test_a_phantom_without_a_voxel_in_the_tumour_is_refused(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(InputError, match="No voxel would lie in the tumour"):
        make_phantom(tmp_path / "study", PhantomSettings(shape=shape, refine=2))
    assert not (tmp_path / "study").exists()
