"""Observations with their noise, and the prediction of each from the states of a model: contrast
agent, drug images, and time series of a system of equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters import HOUR
from nanopinn.physics.drug_pools import DRUG_POOLS, LINEAR_POOLS, volume_fractions
from nanopinn.physics.tissue_maps import TissueMaps

Array = NDArray[np.float64]

Quantity = Literal["encapsulated", "released", "free", "total"]

#: Pools that an image of each quantity shows, and whether it includes encapsulated drug in plasma.
_RELEASED = frozenset(
    name for name, pool in DRUG_POOLS.items() if not pool.encapsulated and pool.volume != "plasma"
)
_ENCAPSULATED = frozenset(
    name for name, pool in DRUG_POOLS.items() if pool.encapsulated and pool.volume != "plasma"
)
VISIBLE_POOLS: dict[Quantity, tuple[frozenset[str], bool]] = {
    "encapsulated": (_ENCAPSULATED, True),
    "released": (_RELEASED, False),
    "free": (frozenset({"free"}), False),
    "total": (_RELEASED | _ENCAPSULATED, True),
}


@dataclass(frozen=True)
class ContrastObservation:
    """Measured contrast-agent concentration with the nuisance directions of each voxel projected
    out.

    Ktrans, ve and vp of every voxel were fitted to the same curves, so the components of the
    residual along their sensitivities contain no information about the flow. The same holds for the
    effect of an error of the arrival time or of the baseline, and for heterogeneity within a voxel,
    which changes the curve along its second derivative with respect to ln ve. These directions are
    projected out, which is equivalent to eliminating them under flat priors. The remaining
    components depend on transport between voxels.

    Attributes:
        measured: concentration in the voxels of the fit, ``(t, n)``, mM.
        noise_sd: noise of each voxel, ``(n,)``, mM.
        voxels: voxels of the fit on the grid of the maps, ``(x, y, z)``, bool.
        nuisance_basis: orthonormal basis of the directions projected out, ``(n, t, k)``.
    """

    measured: Tensor
    noise_sd: Tensor
    voxels: Tensor
    nuisance_basis: Tensor

    @property
    def count(self) -> int:
        """Number of independent values that remain after the projection."""
        t, n = self.measured.shape
        return n * (t - self.nuisance_basis.shape[-1])

    def whiten(self, fields: Tensor) -> Tensor:
        """Fields in the voxels of the fit, divided by the noise and projected.

        Args:
            fields: concentration fields, ``(..., t, x, y, z)``, mM.

        Returns:
            Whitened curves, ``(..., n, t)``.
        """
        return self._project((fields[..., self.voxels] / self.noise_sd).transpose(-1, -2))

    def residual(self, C: Tensor) -> Tensor:
        """Whitened and projected misfit of a predicted concentration.

        Args:
            C: predicted concentration, ``(t, x, y, z)``, mM.

        Returns:
            Residual, ``(n, t)``.
        """
        return self._project(((C[:, self.voxels] - self.measured) / self.noise_sd).T)

    def _project(self, curves: Tensor) -> Tensor:
        """Remove the nuisance directions from curves ``(..., n, t)``."""
        along = torch.einsum("ntk,...nt->...nk", self.nuisance_basis, curves)
        return curves - torch.einsum("ntk,...nk->...nt", self.nuisance_basis, along)


@dataclass(frozen=True)
class DrugObservation:
    """One drug image taken after the dose, in kg per m3 of tissue or in arbitrary units.

    Attributes:
        time_s: time after the dose, s.
        quantity: the drug pools that the image shows; it is linear in them.
        measured: image on the grid of the maps, ``(x, y, z)``, kg/m3.
        noise_sd: noise of the image, ``(x, y, z)``, kg/m3.
        sd: standard deviation of the misfit, ``(x, y, z)``, kg/m3: the noise combined with the
            error of the prediction that comes from the Ktrans and ve maps.
        voxels: voxels of the fit, ``(x, y, z)``, bool.
        pools: names of the pools that are solved, in order.
        scale: estimated scale of the image, by which a prediction is multiplied.
        base_scale: median of the prior of the scale.
        shared_scale_sd: prior sd of the logarithm of the scale that all images of the quantity
            share.
        own_scale_sd: prior sd of the logarithm of the scale of this image alone.
        relative: whether the image is in arbitrary units, so that its scale is unknown.
    """

    time_s: float
    quantity: Quantity
    measured: Tensor
    noise_sd: Tensor
    sd: Tensor
    voxels: Tensor
    pools: tuple[str, ...] = LINEAR_POOLS.pools
    scale: float = 1.0
    base_scale: float = 1.0
    shared_scale_sd: float = 0.0
    own_scale_sd: float = 0.0
    relative: bool = False

    @property
    def name(self) -> str:
        """Quantity and time of the image."""
        return f"{self.quantity} at {self.time_s / HOUR:g} h"

    @property
    def count(self) -> int:
        """Number of voxels of the fit."""
        return int(self.voxels.sum())

    def predict(self, pools: Tensor, maps: TissueMaps, plasma: float) -> Tensor:
        """Predict the image from the drug pools and the drug in plasma.

        Args:
            pools: concentrations of the pools, ``(..., pool, x, y, z)``, kg/m3.
            maps: tissue maps, which give the volume fractions.
            plasma: encapsulated drug in plasma at the time of the image, kg/m3.

        Returns:
            Image, ``(..., x, y, z)``, kg per m3 of tissue.
        """
        image = self.linear(pools, maps)
        if not VISIBLE_POOLS[self.quantity][1]:
            return image
        return image + self.scale * plasma * maps.v_p

    def linear(self, pools: Tensor, maps: TissueMaps) -> Tensor:
        """The part of the image that is linear in the pools; the derivative of an image by any
        unknown is this part of the derivative of the pools.

        Args:
            pools: concentrations of the pools or their derivatives, ``(..., pool, x, y, z)``.
            maps: tissue maps, which give the volume fractions.

        Returns:
            Image without drug in plasma, ``(..., x, y, z)``.
        """
        shown = [i for i, name in enumerate(self.pools) if name in VISIBLE_POOLS[self.quantity][0]]
        fractions = volume_fractions(self.pools, maps)[shown]
        return self.scale * (fractions * pools[..., shown, :, :, :]).sum(dim=-4)

    def whiten(self, image: Tensor) -> Tensor:
        """An image divided by its standard deviation in the voxels of the fit.

        Args:
            image: image, ``(..., x, y, z)``.

        Returns:
            Whitened values, ``(..., n)``.
        """
        return image[..., self.voxels] / self.sd[self.voxels]


@dataclass(frozen=True)
class TimeSeries:
    """Measured time series of linear combinations of the states, ``C y(t) + noise``.

    Attributes:
        name: name for messages.
        times: increasing times, ``(n,)``, s.
        measured: measured values, ``(n, k)``; NaN where nothing was measured.
        observed_states: indices of the observed states, ``(k,)`` integers, or the weights C of all
            states, ``(k, states)``.
        noise_sd: standard deviation of all values, or of each value, ``(n, k)``; None if it is to
            be estimated from the misfit.

    Raises:
        InputError: times do not increase, values are infinite or all missing, shapes do not match,
            or a noise is not positive.
    """

    name: str
    times: Array
    measured: Array
    observed_states: NDArray[np.int64] | Array
    noise_sd: float | Array | None

    def __post_init__(self) -> None:
        self._validate_times()
        if self.measured.shape != (len(self.times), len(self.observed_states)):
            raise InputError(
                "measured values do not match their times and states",
                field=self.name,
                found=f"shape {self.measured.shape}",
                expected=(
                    f"({len(self.times)}, {len(self.observed_states)}), one row for each time and"
                    " one column for each observed state"
                ),
            )
        if np.isinf(self.measured).any() or not np.isfinite(self.measured).any():
            raise InputError(
                (
                    "a series contains infinite values"
                    if np.isinf(self.measured).any()
                    else "a series contains no finite values"
                ),
                field=self.name,
                expected="finite values, and NaN where nothing was measured",
            )
        if self.noise_sd is not None and not (
            np.isfinite(self.noise_sd).all() and (np.asarray(self.noise_sd) > 0).all()
        ):
            raise InputError(
                "noise must be positive, because data without noise would have infinite weight",
                field=f"{self.name}: noise_sd",
                found=np.min(self.noise_sd),
                remedy="Give its standard deviation, or None to estimate it.",
            )

    def _validate_times(self) -> None:
        """Refuse times that are not finite and increasing."""
        if (
            self.times.ndim != 1
            or not np.isfinite(self.times).all()
            or (np.diff(self.times) <= 0).any()
        ):
            raise InputError("times must be finite and increase", field=self.name, found=self.times)

    @classmethod
    def from_state(
        cls,
        name: str,
        times: Array,
        measured: Array,
        *,
        state: int = 0,
        noise_sd: float | Array | None = None,
    ) -> TimeSeries:
        """Build the series of a single state, one value for each time.

        Args:
            name: name for messages.
            times: increasing times, ``(n,)``, s.
            measured: measured values, ``(n,)``; NaN where nothing was measured.
            state: index of the observed state.
            noise_sd: standard deviation of all values, or of each value, ``(n,)``; None if it is to
                be estimated.

        Returns:
            The series.
        """
        sd = (
            noise_sd
            if noise_sd is None or np.ndim(noise_sd) == 0
            else np.asarray(noise_sd, dtype=np.float64)[:, None]
        )
        return cls(
            name,
            np.asarray(times, dtype=np.float64),
            np.asarray(measured, dtype=np.float64)[:, None],
            np.array([state]),
            sd,
        )

    @property
    def is_measured(self) -> NDArray[np.bool_]:
        """Whether each value was measured, ``(n, k)``."""
        return np.isfinite(self.measured)

    @property
    def count(self) -> int:
        """Number of measured values."""
        return int(self.is_measured.sum())

    def predict_from_states(self, states: Array) -> Array:
        """Predict the observed combinations from states or from their derivatives.

        Args:
            states: states at the times of the series, ``(n, states, ...)``.

        Returns:
            Predictions, ``(n, k, ...)``.
        """
        if self.observed_states.ndim == 1:
            return np.asarray(states[:, self.observed_states])
        return np.einsum("ks,ns...->nk...", self.observed_states, states)

    def whiten_states(self, states: Array, sd: float | Array) -> Array:
        """Predict the measured values and divide them by their noise.

        Args:
            states: states at the times of the series, ``(n, states, ...)``.
            sd: noise of all values or of each value, ``(n, k)``.

        Returns:
            Whitened predictions of the values that were measured, ``(count, ...)``.
        """
        noise = np.broadcast_to(np.asarray(sd, dtype=np.float64), self.measured.shape)
        predicted = self.predict_from_states(states)[self.is_measured]
        return predicted / noise[self.is_measured].reshape(-1, *(1,) * (predicted.ndim - 1))


def nearest_nodes(nodes: Array, times_s: Sequence[float]) -> list[int]:
    """Index of the time node that is nearest to each observation time.

    Args:
        nodes: times of the nodes, ``(n,)``, s.
        times_s: observation times, s.
    """
    return [int(np.argmin(np.abs(nodes - t))) for t in times_s]
