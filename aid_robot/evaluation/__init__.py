"""How good a prediction is, whether it follows the instruction, and whether it got better.

    from aid_robot.evaluation import evaluate, get_protocol

    summary = evaluate(["store.zarr"], ["bundled", "copy-last-frame"], get_protocol("tabletop"),
                       "runs/eval")

Modules: `protocols` what figures are measured under; `clips` which clips; `predictors` of whom;
`judge` predicts and measures; `faithfulness` the counterfactuals; `placement` where things end;
`workers`, `run`, `results` the evaluation, which may be killed; `table`, `intervals`, `summary`
from verdicts to figures; `compare` the gate between two; `strips`, `report` the page; `metrics`
what is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aid_robot.evaluation.protocols import EvaluationProtocol, get_protocol
    from aid_robot.evaluation.run import evaluate

__all__ = ["EvaluationProtocol", "evaluate", "get_protocol"]


def __getattr__(name: str) -> Any:
    """Load on use: metrics alone must not bring the data readers along."""
    if name == "evaluate":
        from aid_robot.evaluation.run import evaluate

        return evaluate
    if name in ("EvaluationProtocol", "get_protocol"):
        from aid_robot.evaluation import protocols

        return getattr(protocols, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
