"""Pools that are carried, diffuse, exchange and react: the form in which a model hands itself to a
solver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nanopinn.errors import InputError
from nanopinn.parameters.table import Number

#: Entries of a matrix over pools in every cell, by (row, column); each broadcasts over ``(..., x,
#: y, z)``, absent ones are zero.
Entries = Mapping[tuple[int, int], Tensor]


@dataclass(frozen=True)
class SaturableTransfer:
    """Transport through the cell membrane that saturates on both sides.

        z = uptake F / (1 + F/K_out) - efflux I / (1 + I/K_in)

    Source: El-Kareh and Secomb, Neoplasia 2:325 (2000), with ``uptake = rho Vmax s(pHe)/K_e``,
    ``efflux = Vmax/K_i``, ``K_out = K_e`` and ``K_in = rho K_i``.

    Attributes:
        outside, inside: index of the pools F and I.
        uptake: ``(x, y, z)``, 1/s, per tissue volume. efflux: 1/s. K_out, K_in: kg/m3 of either
            pool; each one or ``(x, y, z)``.
    """

    outside: int
    inside: int
    uptake: Tensor
    efflux: float | Tensor
    K_out: float | Tensor
    K_in: float | Tensor

    def rate(self, U: Tensor) -> Tensor:
        """z at pools ``(..., pool, x, y, z)``, kg/m3/s of tissue."""
        F, In = U[..., self.outside, :, :, :], U[..., self.inside, :, :, :]
        return self.uptake * F / _saturation(F, self.K_out) - self.efflux * In / _saturation(
            In, self.K_in
        )

    def rate_derivatives(self, U: Tensor) -> tuple[Tensor, Tensor]:
        """dz/dF and -dz/dI, both positive."""
        F, In = U[..., self.outside, :, :, :], U[..., self.inside, :, :, :]
        return (
            self.uptake / _saturation(F, self.K_out) ** 2,
            self.efflux / _saturation(In, self.K_in) ** 2,
        )


def _saturation(C: Tensor, K: float | Tensor) -> Tensor:
    """``1 + C/K``; 1 below zero, where round-off may lead an emptied pool: beyond the pole at -K it
    would fall without end.
    """
    return 1 + C.clamp_min(0.0) / K


@dataclass(frozen=True)
class WallExchange:
    """Exchange through the vessel wall, ``influx C_v - efflux C``, which stands in reaction and
    inflow of the voxel too.

    Where tissue is resolved around its vessels, it enters at the wall and not everywhere.

    Attributes:
        pool: of the tissue. plasma: the curve that C_v is, if ``vessel`` is None, else C_v is the
            pool ``vessel``.
        influx, efflux: ``(x, y, z)``, 1/s, per tissue volume.
    """

    pool: int
    plasma: int
    vessel: int | None
    influx: Tensor
    efflux: Tensor


@dataclass(frozen=True)
class PoolCoefficients:
    """Coefficients of a set of pools.

        capacity dU/dt + div(mobility u U) - div(diffusion grad U) + reaction U + transfers(U) =
        inflow c(t)

    Attributes:
        names: the pools.
        capacity: ``(pool, x, y, z)``: the volume fraction a pool fills, or 1 for pools per tissue
            volume.
        moving: the pools that are carried and diffuse; the others stay in their cells.
        mobility: ``(moving,)``, fraction of the fluid's velocity at which each of them moves;
            ``(moving, x, y, z)`` where cells are not neighbours.
        diffusion: ``(moving, x, y, z)``, m2/s, porosity included.
        reaction: by (pool, pool), 1/s; loss positive on the diagonal, gain negative off it.
        inflow: by (pool, input), 1/s, per plasma concentration.
        transfers: what is not linear in the pools.
        walls: which part of reaction and inflow is exchange with vessels.
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
        """Itself.

        Raises:
            InputError: a coefficient is not finite, a capacity not positive or a diffusivity
                negative; names the pool.
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
                    "a pool fills no volume",
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
        """Every coefficient with its pool and name."""
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
        """The volume fraction a pool fills; 1 if never said."""
        self._capacity[self.pool_index(name)] = capacity

    def add_transport(self, name: str, mobility: Tensor | float, diffusion: Tensor) -> None:
        """A pool is carried by the fluid and diffuses (m2/s, porosity included)."""
        self._transport[self.pool_index(name)] = (
            torch.as_tensor(mobility, dtype=self.like.dtype, device=self.like.device),
            diffusion,
        )

    def add_loss(self, name: str, rate: Tensor | float) -> None:
        """A pool loses ``rate`` (1/s, per tissue volume) times its concentration, for good."""
        self._add_entry(self.reaction, self.pool_index(name), self.pool_index(name), rate)

    def add_transfer(self, source: str, target: str, rate: Tensor | float) -> None:
        """What ``source`` loses at ``rate`` (1/s, per tissue volume) enters ``target``."""
        self._add_entry(self.reaction, self.pool_index(source), self.pool_index(source), rate)
        self._add_entry(self.reaction, self.pool_index(target), self.pool_index(source), -1 * rate)

    def add_plasma_source(self, name: str, plasma: int, rate: Tensor | float) -> None:
        """A pool gains ``rate`` (1/s) times a plasma curve."""
        self._add_entry(self.inflow, self.pool_index(name), plasma, rate)

    def add_wall_exchange(
        self, name: str, plasma: int, influx: Tensor, efflux: Tensor, vessel: str | None = None
    ) -> None:
        """A pool exchanges ``influx C_v - efflux C`` with a plasma curve, or with the pool
        ``vessel`` where there is one.
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
        """A saturable transporter works between two pools."""
        self.transfers.append(
            SaturableTransfer(
                self.pool_index(outside), self.pool_index(inside), uptake, efflux, K_out, K_in
            )
        )

    def _add_entry(
        self, entries: dict[tuple[int, int], Tensor], row: int, column: int, rate: Tensor | float
    ) -> None:
        rate = torch.as_tensor(rate, dtype=self.like.dtype, device=self.like.device)
        # one value for every cell stays one value
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
