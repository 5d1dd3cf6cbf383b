"""Judges of imagined futures, all of one protocol, and how they are mixed and named."""

from aid_robot.planning.scorers.make import default_scorer, make_scorer
from aid_robot.planning.scorers.scorer import Custom, Scorer, Weighted, check_scores

__all__ = ["Custom", "Scorer", "Weighted", "check_scores", "default_scorer", "make_scorer"]
