"""One class a failure. Every message names the value, the expectation and the remedy."""

from __future__ import annotations


class AIDRobotError(Exception):
    """Base of all errors that a user of this package can meet and mend."""


class ObservationError(AIDRobotError, ValueError):
    """An observation has unknown keys, or a wrong dtype, shape or range."""


class InstructionError(AIDRobotError, ValueError):
    """An instruction is missing, blank or not text."""


class FrameRateError(AIDRobotError, ValueError):
    """Frames were recorded at another rate than the model was trained on."""


class FrameCountError(AIDRobotError, ValueError):
    """Another number of frames was asked for, or handed over, than the model can take."""


class ConfigError(AIDRobotError, ValueError):
    """A configuration contradicts itself, or names something that doesn't exist."""


class SamplingError(AIDRobotError, ValueError):
    """A sampling argument (steps, seed, guidance scale, ...) is out of its range."""


class WeightsNotFoundError(AIDRobotError, FileNotFoundError):
    """Model weights are at none of the places tried."""


class CheckpointError(AIDRobotError, ValueError):
    """A checkpoint is damaged, incomplete, or of another kind than expected."""


class TrainingError(AIDRobotError, RuntimeError):
    """A training run can't go on."""


class DataFormatError(AIDRobotError, ValueError):
    """Recorded data does not have the layout that its reader expects."""


class TruncatedFileError(DataFormatError):
    """A recording ends before its own header says, or fails its checksum."""


class StoreError(AIDRobotError, ValueError):
    """An episode store is damaged, or is asked for what it doesn't hold or can't take."""


class StoreLockedError(StoreError):
    """Another process is writing to the store."""


class StoreFullError(StoreError, OSError):
    """The disk is full, or a write failed; the store stays readable at its last commit."""


class SimulationError(AIDRobotError, ValueError):
    """A simulated scene can't be built, or is asked for what it can't do."""


class StatePredictionError(AIDRobotError, RuntimeError):
    """A model or server did not give usable state descriptions."""


class MissingDependencyError(AIDRobotError, ImportError):
    """An optional package is not installed."""
