"""The contract of every state predictor, and the checks on what goes in and comes out."""

from __future__ import annotations

import unicodedata
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import (
    ConfigError,
    InstructionError,
    ObservationError,
    StatePredictionError,
)

Frame = NDArray[np.uint8]

MIN_STATES, MAX_STATES = 2, 8


@runtime_checkable
class StatePredictor(Protocol):
    """Split an instruction into short descriptions of the states between start and end."""

    @property
    def identity(self) -> str:
        """Name the model behind the answers: caches keep one entry for each identity."""
        ...

    def __call__(self, frame: Frame, instruction: str) -> list[str]:
        """Return exactly S descriptions in order of time, the first for `frame` (H, W, 3) itself.

        Raises StatePredictionError where the model or server gives none.
        """
        ...


def check_inputs(frame: Frame, instruction: str) -> None:
    """Raise ObservationError or InstructionError unless this is a frame and an instruction."""
    if not isinstance(frame, np.ndarray):
        raise ObservationError(
            f"the frame is a {type(frame).__name__}, expected a numpy array (H, W, 3) uint8: "
            "convert it with numpy.asarray"
        )
    if frame.ndim != 3 or frame.shape[-1] != 3 or 0 in frame.shape or frame.dtype != np.uint8:
        raise ObservationError(
            f"the frame has shape {frame.shape} and dtype {frame.dtype}, expected (H, W, 3) uint8: "
            "pass one RGB image, channels last"
        )
    check_instruction(instruction)


def check_instruction(instruction: str) -> None:
    """Raise InstructionError unless `instruction` is text with at least one visible character."""
    if not isinstance(instruction, str):
        raise InstructionError(
            f"the instruction is a {type(instruction).__name__}, expected text such as "
            "'put the carrot on the plate'"
        )
    categories = {unicodedata.category(character) for character in instruction}
    if all(category[0] in "ZC" for category in categories):
        raise InstructionError(
            f"the instruction {instruction!r} is blank: say what the robot should do, "
            "such as 'put the carrot on the plate'"
        )
    if "Cs" in categories:
        raise InstructionError(
            f"the instruction {instruction!r} holds half a character (a lone surrogate): "
            "decode it from its bytes as UTF-8"
        )


def check_num_states(num_states: int) -> int:
    """Return `num_states`, or raise ConfigError unless it is a whole number from 2 to 8."""
    whole = isinstance(num_states, int) and not isinstance(num_states, bool)
    if not whole or not MIN_STATES <= num_states <= MAX_STATES:
        raise ConfigError(
            f"num_states={num_states!r} is out of range: choose a whole number from "
            f"{MIN_STATES} to {MAX_STATES} (AID was published with 4)"
        )
    return num_states


def is_states(value: object, num_states: int) -> bool:
    """Tell whether `value` is a list of exactly `num_states` non-blank strings."""
    return (
        isinstance(value, list)
        and len(value) == num_states
        and all(isinstance(state, str) and state.strip() for state in value)
    )


def check_states(value: list[str], num_states: int, identity: str) -> list[str]:
    """Return the states, or raise StatePredictionError unless there are `num_states` of them."""
    if not is_states(value, num_states):
        raise StatePredictionError(
            f"predictor '{identity}' returned {value!r}, expected a list of {num_states} "
            "non-blank strings: build it with the same num_states as the model that uses it"
        )
    return value
