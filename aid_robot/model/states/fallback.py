"""Go on with the template's states where a model or server gives none, and say so once."""

from __future__ import annotations

import threading
import warnings

from aid_robot.errors import StatePredictionError
from aid_robot.model.states.predictor import Frame, StatePredictor


class StateFallbackWarning(UserWarning):
    """A model or server gave no states, and simpler ones took their place."""


class FallbackStatePredictor:
    """Ask `predictor`; where it raises StatePredictionError, warn and ask `substitute`.

    Each cause (no connection, a time-out, one HTTP status, an unreadable answer, ...) is warned of
    once. It stands in front of the cache, so that a substitute's states are never kept.
    """

    def __init__(self, predictor: StatePredictor, substitute: StatePredictor) -> None:
        self.predictor = predictor
        self.substitute = substitute
        self._warned: set[tuple[type, object]] = set()
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        """Name the predictor that is asked first."""
        return self.predictor.identity

    def __call__(self, frame: Frame, instruction: str) -> list[str]:
        try:
            return self.predictor(frame, instruction)
        except StatePredictionError as error:
            if self._is_new(error):
                warnings.warn(
                    f"states come from '{self.substitute.identity}' instead of "
                    f"'{self.identity}': {error}",
                    StateFallbackWarning,
                    stacklevel=2,
                )
        return self.substitute(frame, instruction)

    def _is_new(self, error: StatePredictionError) -> bool:
        cause = (type(error.__cause__), getattr(error.__cause__, "code", None))
        with self._lock:
            if cause in self._warned:
                return False
            self._warned.add(cause)
            return True
