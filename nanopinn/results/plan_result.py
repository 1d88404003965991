"""What a plan says: expected posterior of every unknown, and what each further image would add;
frozen, readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanopinn.inference.unknowns import Unknown
from nanopinn.results.fit_result import ScalarEstimate

Array = NDArray[np.float64]

#: Below this expected information an image is not worth a scan, nats: every sd would shrink by 1 %
#: in all.
_MIN_USEFUL_NATS = 0.1


@dataclass(frozen=True)
class ExpectedEstimate:
    """One unknown, before any scan: its prior sd, and its posterior sd as expected on average over
    the draws.

    Every sd is in natural-log units where ``scale`` is "log" and in ``unit`` where it is "linear".
    ``low`` and ``high`` are the least and the largest over the draws.
    """

    name: str
    label: str
    unit: str
    scale: str
    prior_sd: float
    sd: float
    low: float
    high: float

    @property
    def contraction(self) -> float:
        """1 - sd_post / sd_prior, expected."""
        return 1.0 - self.sd / self.prior_sd

    @property
    def informed(self) -> bool:
        """Whether the images, rather than the prior, would set this value."""
        return self.contraction >= ScalarEstimate.INFORMED_FROM


@dataclass(frozen=True)
class CandidateGain:
    """What one more image would do.

    Attributes:
        gain: expected information, nats, on average over the draws; ``low``, ``high`` of them.
        unknowns: as expected with this image.
    """

    name: str
    gain: float
    low: float
    high: float
    unknowns: tuple[ExpectedEstimate, ...]

    def newly_informed(self, before: tuple[ExpectedEstimate, ...]) -> tuple[str, ...]:
        """Labels of unknowns that this image would inform and that were not informed before."""
        return tuple(
            a.label
            for a, b in zip(self.unknowns, before, strict=True)
            if a.informed and not b.informed
        )


@dataclass(frozen=True, repr=False)
class Plan:
    """What a protocol is expected to tell, and which image to add.

    Attributes:
        protocol: what would be measured, and where the tumour comes from: sentences.
        unknowns: with their priors. candidates: names of the images that could be added.
        where: what the first draw is ("prior medians", "the estimate"); the others are drawn around
            it.
        sd: ``(draws, m)``, expected posterior sd in the coordinates of the unknowns.
        sd_with: ``(draws, c, m)``, with each candidate. gain: ``(draws, c)`` nats, of each
            candidate.
        gain_after_best: ``(draws, c)`` nats, of each candidate once the best is taken. seconds:
            what it cost.
    """

    protocol: tuple[str, ...]
    unknowns: tuple[Unknown, ...]
    candidates: tuple[str, ...]
    where: str
    sd: Array
    sd_with: Array
    gain: Array
    gain_after_best: Array
    seconds: float

    def __repr__(self) -> str:
        best = self.additions[0]
        return (
            f"Plan({len(self.informed)} of {len(self.unknowns)} unknowns informed; best addition:"
            f" {best.name}, +{best.gain:.2f} nats)"
        )

    def __getitem__(self, name: str) -> ExpectedEstimate:
        return next(e for e in self.expected if e.name == name)

    @property
    def expected(self) -> tuple[ExpectedEstimate, ...]:
        """Every unknown under the protocol as it is."""
        return self._expected(self.sd)

    @property
    def informed(self) -> tuple[str, ...]:
        """Labels of what the protocol would inform."""
        return tuple(e.label for e in self.expected if e.informed)

    @property
    def additions(self) -> tuple[CandidateGain, ...]:
        """Every candidate, best first."""
        every = [
            CandidateGain(
                name,
                float(g.mean()),
                float(g.min()),
                float(g.max()),
                self._expected(self.sd_with[:, i]),
            )
            for i, (name, g) in enumerate(zip(self.candidates, self.gain.T, strict=True))
        ]
        return tuple(sorted(every, key=lambda a: -a.gain))

    def _expected(self, sd: Array) -> tuple[ExpectedEstimate, ...]:
        return tuple(
            ExpectedEstimate(
                u.name,
                u.label,
                u.unit,
                u.scale,
                f * u.prior_sd,
                f * float(s.mean()),
                f * float(s.min()),
                f * float(s.max()),
            )
            for u, s, f in (
                (u, s, u.per_unit if u.scale == "linear" else 1.0)
                for u, s in zip(self.unknowns, sd.T, strict=True)
            )
        )

    def summary(self) -> str:
        """Two tables, and in words what they come to."""
        return "\n".join(
            [
                *self.protocol,
                "",
                *self._format_unknowns(),
                "",
                *self._format_candidates(),
                "",
                self.describe(),
            ]
        )

    def _format_unknowns(self) -> list[str]:
        count = len(self.sd)
        spread = (
            f"mean and range of {count} draws, the first at {self.where}"
            if count > 1
            else f"at {self.where}"
        )
        lines = [
            f"Expected with the protocol as it is ({spread}; sd of ln, of the value for pK)",
            (
                f"{'quantity':34s} {'prior sd':>9s} {'expected sd':>24s} {'contraction':>12s} "
                " informed"
            ),
        ]
        for e in self.expected:
            found = f"{e.sd:.3f}" + (f" ({e.low:.3f} .. {e.high:.3f})" if count > 1 else "")
            lines.append(
                f"{e.label:34s} {e.prior_sd:9.2f} {found:>24s} {e.contraction:12.2f} "
                f" {'yes' if e.informed else 'no'}"
            )
        return lines

    def _format_candidates(self) -> list[str]:
        """The ranking; columns for the unknowns that any candidate can move."""
        moved = [
            u.name
            for i, u in enumerate(self.unknowns)
            if self.sd_with[..., i].min() < 0.99 * u.prior_sd
        ]
        now = {e.name: e.contraction for e in self.expected}
        lines = [
            (
                "One more image, best first: expected information (half the fall of ln det of the"
                " posterior covariance, nats), and"
            ),
            "the contraction of every unknown that images can inform",
            f"{'image':24s} {'nats':>20s} " + "".join(f"{n:>10s}" for n in moved),
            f"{'(as it is)':24s} {'':20s} " + "".join(f"{now[n]:10.2f}" for n in moved),
        ]
        for a in self.additions:
            with_it = {e.name: e.contraction for e in a.unknowns}
            gain = f"{a.gain:.2f}" + (f" ({a.low:.2f} .. {a.high:.2f})" if len(self.sd) > 1 else "")
            lines.append(
                f"{a.name:24s} {gain:>20s} " + "".join(f"{with_it[n]:10.2f}" for n in moved)
            )
        return lines

    def describe(self) -> str:
        """What would be informed, what would not, and which image to add."""
        carried = [e.label for e in self.expected if not e.informed]
        said = [
            (
                f"The protocol would inform: {', '.join(self.informed)}."
                if self.informed
                else "The protocol would inform nothing."
            )
        ]
        said += [f"Not informed, the prior would speak: {', '.join(carried)}."] if carried else []
        return " ".join([*said, *self._advice()])

    def _advice(self) -> list[str]:
        best = self.additions[0]
        if best.gain < _MIN_USEFUL_NATS:
            return [
                f"No candidate is worth a scan: the best, {best.name}, adds {best.gain:.2f} nats."
            ]
        said = [
            f"One more image helps most as {best.name} (+{best.gain:.2f} nats); it narrows"
            f" {_largest_reductions(self.expected, best.unknowns)}."
        ]
        fresh = best.newly_informed(self.expected)
        said += [f"It would newly inform: {', '.join(fresh)}."] if fresh else []
        then = self.gain_after_best.mean(axis=0)
        if len(self.candidates) > 1 and then.max() >= _MIN_USEFUL_NATS:
            said.append(
                f"After that, {self.candidates[int(then.argmax())]} helps most"
                f" (+{then.max():.2f} nats)."
            )
        return said

    def table(self) -> list[Mapping[str, str | float | bool]]:
        """One row per unknown for the protocol and for every addition."""
        every = [
            ("protocol", 0.0, self.expected),
            *((a.name, a.gain, a.unknowns) for a in self.additions),
        ]
        return [
            {
                "with": name,
                "gain_nats": gain,
                "name": e.name,
                "label": e.label,
                "unit": e.unit,
                "scale": e.scale,
                "prior_sd": e.prior_sd,
                "expected_sd": e.sd,
                "lowest_sd": e.low,
                "highest_sd": e.high,
                "contraction": e.contraction,
                "informed": e.informed,
            }
            for name, gain, unknowns in every
            for e in unknowns
        ]


def _largest_reductions(
    before: tuple[ExpectedEstimate, ...], after: tuple[ExpectedEstimate, ...]
) -> str:
    """The up to three unknowns whose sd falls most, in words."""
    fall = sorted(
        ((b.sd - a.sd) / b.sd, a) for a, b in zip(after, before, strict=True) if a.sd < 0.95 * b.sd
    )
    named = [f"{a.label} by {share:.0%}" for share, a in reversed(fall[-3:])] if fall else []
    return ", ".join(named) if named else "every unknown by less than 5%"
