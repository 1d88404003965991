"""What every refusal of a hostile file has in common."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.data  # noqa: F401  # loaded here, so that no refusal is timed with it
import nibabel as nib
import numpy as np
import pytest

from nanopinn.errors import InputError

AFFINE = np.diag([1.0, 1.2, 2.0, 1.0])
DATA = np.random.default_rng(0).random((5, 4, 3)).astype(np.float32)
#: Memory and time that refusing one file may take: far less than a hospital's computer has.
MOST_BYTES, LONGEST_S = 200 << 20, 10.0


def refused(read: Callable[[], Any], name: str | None) -> InputError:
    """The error of a reader: one line that names the file, soon, and without much memory."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(InputError) as caught:
            read()
        assert time.perf_counter() - began < LONGEST_S
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 8000
    assert name is None or caught.value.file == name
    return caught.value


def volume(
    path: Path, data: np.ndarray = DATA, extension: bytes | None = None, **fields: Any
) -> Path:
    """A valid volume whose header then had fields overwritten."""
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    if extension is not None:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", extension))
    image = nib.Nifti1Image.from_bytes(image.to_bytes())
    header, start = image.header.copy(), int(image.dataobj.offset)
    whole = nib.Nifti1Image(data, AFFINE, image.header).to_bytes()
    for key, content in fields.items():
        header[key] = content
    raw = header.binaryblock + whole[348:start] + data.tobytes(order="F")
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path
