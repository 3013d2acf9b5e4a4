"""What was measured, as numbers: medians of rounds, and the lines that are printed. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def share_below(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of all values are: 0.99 for the p99."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line: what the bridge did beside its baseline, each the median of the rounds.

    ratios: the bridge's figure by the baseline's, one for each round, since only what was measured next to each other
    can be compared. at_most, at_least: the target, of the median ratio, or of the bridge's own figure where
    `absolute`. unit stands behind both figures.
    """

    what: str
    unit: str
    bridge: Sequence[float]
    baseline: Sequence[float] = ()
    at_most: float | None = None
    at_least: float | None = None
    absolute: bool = False
    digits: int = 1

    @property
    def ratios(self) -> list[float]:
        """Round by round."""
        return [one / other for one, other in zip(self.bridge, self.baseline, strict=True)] if self.baseline else []

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without one."""
        value = statistics.median(self.bridge if self.absolute else self.ratios or [0.0])
        if self.at_most is not None:
            return value <= self.at_most
        return None if self.at_least is None else value >= self.at_least

    def cells(self) -> tuple[str, ...]:
        """Return what, baseline, bridge, ratio with its extremes, target, verdict."""
        ratio = ""
        if self.ratios:
            ratio = f"{statistics.median(self.ratios):.2f}"
            ratio += f" ({min(self.ratios):.2f} to {max(self.ratios):.2f})" if len(self.ratios) > 1 else ""
        return self.what, self._show(self.baseline), self._show(self.bridge), ratio, self._target(), self._verdict()

    def _show(self, values: Sequence[float]) -> str:
        return f"{statistics.median(values):,.{self.digits}f} {self.unit}" if values else ""

    def _target(self) -> str:
        unit = f" {self.unit}" if self.absolute else ""
        if self.at_most is not None:
            return f"<= {self.at_most:g}{unit}"
        return "" if self.at_least is None else f">= {self.at_least:g}{unit}"

    def _verdict(self) -> str:
        return {None: "", True: "reached", False: "MISSED"}[self.reached]


def table(title: str, baseline: str, figures: Sequence[Figure]) -> str:
    """Write figures below each other; `baseline` names what stands beside the bridge."""
    rows = [(title, baseline, "bridge", "ratio (rounds)", "target", ""), *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  ".join(
            cell.ljust(width) if column in {0, 5} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
