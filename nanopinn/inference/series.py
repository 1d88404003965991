"""What was measured of a system over time: numbers linear in its states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TimeSeries:
    """Measured numbers ``weights y(t) + noise``.

    Attributes:
        name: what it is called for the reader.
        times: ``(n,)`` s, increasing.
        measured: ``(n, k)``; NaN where nothing was measured.
        seen: which states, ``(k,)`` integers, or weights of all states, ``(k, states)``.
        noise_sd: of every number, or one per number ``(n, k)``; None when it is to be estimated from the misfit.

    Raises:
        InputError: times that do not increase, numbers that are infinite or missing altogether, a noise that is not positive.
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
                "numbers do not match their times and states",
                field=self.name,
                found=f"shape {self.measured.shape}",
                expected=f"({len(self.times)}, {len(self.observed_states)}): a row per time, a column per state seen",
            )
        if np.isinf(self.measured).any() or not np.isfinite(self.measured).any():
            raise InputError(
                "a series holds infinite numbers"
                if np.isinf(self.measured).any()
                else "a series holds no numbers",
                field=self.name,
                expected="finite numbers, NaN where nothing was measured",
            )
        if self.noise_sd is not None and not (
            np.isfinite(self.noise_sd).all() and (np.asarray(self.noise_sd) > 0).all()
        ):
            raise InputError(
                "noise must be positive: data without noise would fix unknowns exactly",
                field=f"{self.name}: noise_sd",
                found=np.min(self.noise_sd),
                remedy="Give its standard deviation, or None to have it estimated.",
            )

    def _validate_times(self) -> None:
        if (
            self.times.ndim != 1
            or not np.isfinite(self.times).all()
            or (np.diff(self.times) <= 0).any()
        ):
            raise InputError("times must be finite and increase", field=self.name, found=self.times)

    @classmethod
    def of(
        cls,
        name: str,
        times: Array,
        measured: Array,
        *,
        state: int = 0,
        noise_sd: float | Array | None = None,
    ) -> TimeSeries:
        """One number per time, ``(n,)``: a single state."""
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
        """Where something was measured, ``(n, k)``."""
        return np.isfinite(self.measured)

    @property
    def count(self) -> int:
        """Numbers measured."""
        return int(self.is_measured.sum())

    def predict_from_states(self, states: Array) -> Array:
        """What would be measured of states ``(n, states, ...)``: ``(n, k, ...)``."""
        if self.observed_states.ndim == 1:
            return np.asarray(states[:, self.observed_states])
        return np.einsum("ks,ns...->nk...", self.observed_states, states)

    def whiten_states(self, states: Array, sd: float | Array) -> Array:
        """What would be measured, over its noise, where something was: ``(count, ...)``."""
        over = np.broadcast_to(np.asarray(sd, dtype=np.float64), self.measured.shape)
        seen = self.predict_from_states(states)
        return seen[self.is_measured] / over[self.is_measured].reshape(-1, *(1,) * (seen.ndim - 2))
