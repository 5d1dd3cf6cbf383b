"""`aid-robot calibrate`: fit scores to what came of plans that were carried out."""

from __future__ import annotations

import argparse
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from aid_robot.errors import ConfigError, ScoreError

if TYPE_CHECKING:
    from aid_robot.planning.outcomes import CarriedOut

HELP = "fit a scorer's calibration on recorded decisions and what came of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "stores", nargs="+", metavar="STORE", help="decisions that DecisionRecorder has recorded"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="MODEL/success/calibration.json for the scorer 'success' of a model; a picture of the "
        "reliability is put beside it, as .png",
    )
    parser.add_argument("--scorer", help="whose scores, where the decisions are by several")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="RATE",
        help="rate of success below which a planner abstains (default: 0, never)",
    )
    parser.add_argument(
        "--method", choices=("isotonic", "platt"), help="default: isotonic from 100 outcomes on"
    )


def run(args: argparse.Namespace) -> int:
    """Fit, print what it is worth, and save."""
    if not 0 <= args.threshold <= 1:
        raise ConfigError(f"--threshold {args.threshold}; expected a rate from 0 to 1")
    if args.output.suffix != ".json":
        raise ConfigError(f"--output {args.output}; expected a file name ending in .json")
    from aid_robot.planning import calibration as fitting
    from aid_robot.planning.charts import draw_reliability
    from aid_robot.planning.outcomes import cross_fitted

    plans = _read(args.stores, args.scorer)
    scores = [plan.score for plan in plans]
    succeeded = [plan.success for plan in plans]
    calibration = fitting.Calibration.fit(
        *(scores, succeeded),
        method=args.method,
        threshold=args.threshold,
        facts={
            "scorer": plans[0].scorer,
            "models": sorted({plan.model for plan in plans}),
            "penalties": sorted({plan.penalty for plan in plans}),
            "fitted": datetime.now(UTC).date().isoformat(),
        },
    )
    low, high = fitting.auroc_interval(scores, succeeded)
    print(
        f"{len(plans)} plans by '{plans[0].scorer}', {sum(succeeded)} succeeded; AUROC "
        f"{fitting.auroc(scores, succeeded):.3f} [{low:.3f}, {high:.3f}], rank correlation "
        f"{fitting.rank_correlation(scores, succeeded):.3f}"
    )
    curves = [("as scored", fitting.reliability(scores, succeeded))]
    error = f"calibration error {fitting.calibration_error(scores, succeeded):.3f}"
    try:
        rates = cross_fitted(scores, succeeded, method=args.method)
    except ScoreError:
        print(f"{error}; too few plans to judge the calibration by others than it was fitted on")
    else:
        curves.append(("calibrated on others", fitting.reliability(rates, succeeded)))
        print(f"{error}, calibrated on others {fitting.calibration_error(rates, succeeded):.3f}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    picture = args.output.with_suffix(".png")
    draw_reliability(curves).save(picture)
    calibration.save(args.output)
    print(f"wrote   {args.output}, {picture}")
    return 0


def _read(stores: list[str], scorer: str | None) -> list[CarriedOut]:
    from aid_robot.data.store import EpisodeStore
    from aid_robot.planning.outcomes import read_carried_out

    plans = []
    for path in stores:
        with EpisodeStore.open(path) as store:
            plans += read_carried_out((r.id, r.info) for r in store.records)
    known = Counter(plan.scorer for plan in plans).most_common()
    counts = ", ".join(f"'{name}' ({count})" for name, count in known) or "none"
    if scorer is None and len(known) > 1:
        raise ConfigError(f"the decisions are by several scorers, {counts}: choose by --scorer")
    chosen = [plan for plan in plans if scorer in (None, plan.scorer)]
    if not chosen:
        wanted = f"by '{scorer}' " if scorer else ""
        raise ConfigError(
            f"no plan {wanted}with a known outcome in {', '.join(stores)}; there are {counts}: "
            "record decisions with DecisionRecorder, in an environment that tells its success"
        )
    return chosen
