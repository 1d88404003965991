"""Coefficients of coupled transport equations (pools), as models pass them to solvers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters import Number

#: Entries of a matrix over pools in every cell, by (row, column). Each broadcasts with
#: ``(..., x, y, z)``; absent entries are zero.
Entries = Mapping[tuple[int, int], Tensor]


@dataclass(frozen=True)
class SaturableTransfer:
    """Transport through the cell membrane that saturates on both sides.

        z = uptake F / (1 + F/K_out) - efflux I / (1 + I/K_in)

    For doxorubicin ``uptake = rho Vmax s(pHe)/K_e``, ``efflux = Vmax/K_i``, ``K_out = K_e`` and
    ``K_in = rho K_i``.

    Attributes:
        outside: index of the pool F.
        inside: index of the pool I.
        uptake: per tissue volume, ``(x, y, z)``, 1/s.
        efflux: a number or ``(x, y, z)``, 1/s.
        K_out: half-saturation of F, a number or ``(x, y, z)``, kg/m3.
        K_in: half-saturation of I, a number or ``(x, y, z)``, kg/m3.

    References:
        El-Kareh and Secomb, Neoplasia 2:325 (2000).
    """

    outside: int
    inside: int
    uptake: Tensor
    efflux: float | Tensor
    K_out: float | Tensor
    K_in: float | Tensor

    def rate(self, U: Tensor) -> Tensor:
        """Rate z per tissue volume, ``(..., x, y, z)``, kg/(m3 s).

        Args:
            U: concentrations, ``(..., pool, x, y, z)``, kg/m3.
        """
        F, In = U[..., self.outside, :, :, :], U[..., self.inside, :, :, :]
        return self.uptake * F / _saturation(F, self.K_out) - self.efflux * In / _saturation(
            In, self.K_in
        )

    def rate_derivatives(self, U: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives dz/dF and -dz/dI, both positive, ``(..., x, y, z)``, 1/s.

        Args:
            U: concentrations, ``(..., pool, x, y, z)``, kg/m3.
        """
        F, In = U[..., self.outside, :, :, :], U[..., self.inside, :, :, :]
        return (
            self.uptake / _saturation(F, self.K_out) ** 2,
            self.efflux / _saturation(In, self.K_in) ** 2,
        )


def _saturation(C: Tensor, K: float | Tensor) -> Tensor:
    """Denominator ``1 + C/K``, 1 for C < 0.

    Round-off may make an empty pool negative; without the limit it could diverge at the pole -K.
    """
    return 1 + C.clamp_min(0.0) / K


@dataclass(frozen=True)
class WallExchange:
    """Exchange through the vessel wall, ``influx C_v - efflux C``.

    Reaction and inflow of the pools contain it already. Where tissue is resolved around its
    vessels, it applies at the wall only.

    Attributes:
        pool: index of the pool C of the tissue.
        plasma: index of the plasma curve C_v, if ``vessel`` is None.
        vessel: index of the pool C_v of the microvessels, if there is one.
        influx: per tissue volume, ``(x, y, z)``, 1/s.
        efflux: per tissue volume, ``(x, y, z)``, 1/s.
    """

    pool: int
    plasma: int
    vessel: int | None
    influx: Tensor
    efflux: Tensor


@dataclass(frozen=True)
class PoolCoefficients:
    """Coefficients of a set of pools.

        capacity dU/dt + div(mobility u U) - div(diffusion grad U) + reaction U + transfers(U)
            = inflow c(t)

    Attributes:
        names: of the pools.
        capacity: volume fraction that a pool fills, ``(pool, x, y, z)``; 1 for a pool per tissue
            volume.
        moving: indices of the pools that are advected and diffuse; the others stay in their cells.
        mobility: velocity over that of the fluid, ``(moving,)``, or ``(moving, x, y, z)`` where
            cells are not neighbours.
        diffusion: porosity included, ``(moving, x, y, z)``, m2/s.
        reaction: by (pool, pool), 1/s; losses are positive on the diagonal, gains negative off it.
        inflow: by (pool, input), 1/s per plasma concentration.
        transfers: terms that are not linear in the pools.
        walls: the part of reaction and inflow that is exchange with vessels.
    """

    names: tuple[str, ...]
    capacity: Tensor
    moving: tuple[int, ...]
    mobility: Tensor
    diffusion: Tensor
    reaction: Entries
    inflow: Entries
    transfers: tuple[SaturableTransfer, ...] = ()
    walls: tuple[WallExchange, ...] = ()

    def validate(self) -> PoolCoefficients:
        """Return self after validation.

        Raises:
            InputError: a coefficient is not finite, a capacity is not positive or a diffusivity is
                negative; the message names the pool.
        """
        for p, field, values in self._iterate_coefficients():
            if not bool(torch.isfinite(values).all()):
                raise InputError(
                    f"the {field} of a pool is not finite",
                    field=f"{self.names[p]}: {field}",
                    remedy="Look for NaN in the maps.",
                )
            if field == "capacity" and float(values.min()) <= 0:
                raise InputError(
                    "the capacity of a pool is not positive",
                    field=f"{self.names[p]}: capacity",
                    found=float(values.min()),
                    expected="above 0",
                )
            if field == "diffusion" and float(values.min()) < 0:
                raise InputError(
                    "a diffusivity is negative",
                    field=f"{self.names[p]}: diffusion",
                    found=float(values.min()),
                    expected="0 or more",
                )
        return self

    def _iterate_coefficients(self) -> Iterator[tuple[int, str, Tensor]]:
        """Every coefficient with the index of its pool and its name."""
        yield from ((p, "capacity", values) for p, values in enumerate(self.capacity))
        yield from (
            (p, "diffusion", values) for p, values in zip(self.moving, self.diffusion, strict=True)
        )
        yield from ((p, "reaction", values) for (p, _), values in self.reaction.items())
        yield from ((p, "inflow", values) for (p, _), values in self.inflow.items())


class PoolAssembler:
    """Pools under assembly: terms are added by name, so that what leaves one pool enters the other.

    Args:
        names: the pools. like: a map ``(x, y, z)`` of the grid.
    """

    def __init__(self, names: tuple[str, ...], like: Tensor) -> None:
        self.names = names
        self.reaction: dict[tuple[int, int], Tensor] = {}
        self.inflow: dict[tuple[int, int], Tensor] = {}
        self.transfers: list[SaturableTransfer] = []
        self.walls: list[WallExchange] = []
        self.like = like
        self._capacity: list[Tensor] = [torch.ones_like(like)] * len(names)
        self._transport: dict[int, tuple[Tensor, Tensor]] = {}

    def pool_index(self, name: str) -> int:
        return self.names.index(name)

    def set_capacity(self, name: str, capacity: Tensor) -> None:
        """Set the volume fraction that a pool fills, ``(x, y, z)``; 1 by default."""
        self._capacity[self.pool_index(name)] = capacity

    def add_transport(self, name: str, mobility: Tensor | float, diffusion: Tensor) -> None:
        """Add advection and diffusion of a pool.

        Args:
            name: of the pool.
            mobility: velocity over that of the fluid.
            diffusion: porosity included, ``(x, y, z)``, m2/s.
        """
        self._transport[self.pool_index(name)] = (
            torch.as_tensor(mobility, dtype=self.like.dtype, device=self.like.device),
            diffusion,
        )

    def add_loss(self, name: str, rate: Tensor | float) -> None:
        """Add an irreversible loss of ``rate`` times the concentration (1/s, per tissue volume)."""
        self._add_entry(self.reaction, self.pool_index(name), self.pool_index(name), rate)

    def add_transfer(self, source: str, target: str, rate: Tensor | float) -> None:
        """Add a first-order transfer from ``source`` to ``target`` (1/s, per tissue volume)."""
        self._add_entry(self.reaction, self.pool_index(source), self.pool_index(source), rate)
        self._add_entry(self.reaction, self.pool_index(target), self.pool_index(source), -1 * rate)

    def add_plasma_source(self, name: str, plasma: int, rate: Tensor | float) -> None:
        """Add a gain of ``rate`` (1/s) times the plasma curve of index ``plasma``."""
        self._add_entry(self.inflow, self.pool_index(name), plasma, rate)

    def add_wall_exchange(
        self, name: str, plasma: int, influx: Tensor, efflux: Tensor, vessel: str | None = None
    ) -> None:
        """Add the exchange ``influx C_v - efflux C`` with a plasma curve or a pool of microvessels.

        Args:
            name: of the pool in tissue.
            plasma: index of the plasma curve C_v.
            influx: per tissue volume, ``(x, y, z)``, 1/s.
            efflux: per tissue volume, ``(x, y, z)``, 1/s.
            vessel: name of the pool C_v of the microvessels, in place of the curve.
        """
        if vessel is None:
            self.add_plasma_source(name, plasma, influx)
            self.add_loss(name, efflux)
        else:
            self.add_transfer(vessel, name, influx)
            self.add_transfer(name, vessel, efflux)
        self.walls.append(
            WallExchange(
                self.pool_index(name),
                plasma,
                None if vessel is None else self.pool_index(vessel),
                influx,
                efflux,
            )
        )

    def add_saturable_transfer(
        self, outside: str, inside: str, uptake: Tensor, efflux: Number, K_out: Number, K_in: Number
    ) -> None:
        """Add a saturable transfer between two pools (:class:`SaturableTransfer`)."""
        self.transfers.append(
            SaturableTransfer(
                self.pool_index(outside), self.pool_index(inside), uptake, efflux, K_out, K_in
            )
        )

    def _add_entry(
        self, entries: dict[tuple[int, int], Tensor], row: int, column: int, rate: Tensor | float
    ) -> None:
        rate = torch.as_tensor(rate, dtype=self.like.dtype, device=self.like.device)
        # a uniform rate is not expanded to all cells
        rate = rate if rate.dim() else rate.reshape(1, 1, 1)
        entries[row, column] = entries[row, column] + rate if (row, column) in entries else rate

    def coefficients(self) -> PoolCoefficients:
        """The assembled pools."""
        moving, none = tuple(sorted(self._transport)), self.like.new_zeros((0, *self.like.shape))
        return PoolCoefficients(
            self.names,
            torch.stack(self._capacity),
            moving,
            (
                torch.stack(torch.broadcast_tensors(*(self._transport[p][0] for p in moving)))
                if moving
                else none[:, 0, 0, 0]
            ),
            torch.stack([self._transport[p][1] for p in moving]) if moving else none,
            self.reaction,
            self.inflow,
            tuple(self.transfers),
            tuple(self.walls),
        )
