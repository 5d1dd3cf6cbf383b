"""What the accuracy gate found: checks with their limits, and what was left out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Thresholds:
    """What the numbers that a graph computes in must reach."""

    relative_l2: float  # largest, of the network's output
    cosine: float  # smallest, of the same
    psnr: float  # smallest, of predicted frames against torch's, dB
    lpips: float  # largest, of the same


THRESHOLDS: Mapping[str, Thresholds] = {
    "fp32": Thresholds(1e-5, 0.999999, 60.0, 1e-3),
    "fp16": Thresholds(1e-2, 0.9999, 45.0, 1e-2),
    "bf16": Thresholds(5e-2, 0.998, 35.0, 5e-2),
    "fp8": Thresholds(0.15, 0.99, 28.0, 0.1),
    "int8": Thresholds(0.2, 0.98, 25.0, 0.15),
}


@dataclass(frozen=True)
class Check:
    """One figure and its limit."""

    what: str
    figure: str
    value: float
    limit: float
    at_most: bool

    @property
    def passed(self) -> bool:
        """Tell whether the figure keeps its limit; NaN never does."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass(frozen=True)
class LeftOut:
    """What was not compared, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Report:
    """All checks of one folder."""

    engines: str
    runtime: str
    precision: str
    versions: Mapping[str, str]
    checks: tuple[Check, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def passed(self) -> bool:
        """Tell whether every check passed, and there was one."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def table(self) -> str:
        """Return the checks as lines."""
        wide = max((len(check.what) for check in self.checks), default=0)
        lines = [
            f"{check.what:<{wide}}  {check.figure:<11} {check.value:>11.4g}  "
            f"{'<=' if check.at_most else '>='} {check.limit:<9.6g} "
            f"{'ok' if check.passed else 'FAILED'}"
            for check in self.checks
        ]
        verdict = "passed" if self.passed else "FAILED" if self.checks else "not verified"
        missing = [f"left out: {one.what} ({one.why})" for one in self.left_out]
        return "\n".join(
            [*lines, *missing, f"{self.engines} by {self.runtime}, {self.precision}: {verdict}"]
        )

    def to_json(self) -> str:
        """Return the report as JSON; infinity and NaN as text."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        for check in checks:
            if not math.isfinite(check["value"]):
                check["value"] = str(check["value"])
        return json.dumps({**asdict(self), "checks": checks, "passed": self.passed}, indent=2)
