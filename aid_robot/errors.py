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


class MetricError(AIDRobotError, ValueError):
    """A metric is handed what it can't judge, or too little of it."""


class TrainingError(AIDRobotError, RuntimeError):
    """A training run can't go on."""


class EvaluationError(AIDRobotError, RuntimeError):
    """An evaluation can't go on, or its figures can't be compared."""


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


class ExportError(AIDRobotError, RuntimeError):
    """A graph or an engine can't be made from the model."""


class EngineError(AIDRobotError, ValueError):
    """An exported graph or engine is damaged, or was made for another model, machine or version."""


class RuntimeUnavailableError(AIDRobotError, RuntimeError):
    """A runtime, or the provider or device that it was asked for, is not there."""


class MissingDependencyError(AIDRobotError, ImportError):
    """An optional package is not installed."""


class PlanError(AIDRobotError, ValueError):
    """A candidate plan or a goal is missing, blank, doubled or of a wrong kind."""


class ScoreError(AIDRobotError, ValueError):
    """A scorer gave what is no score, or is asked for what it can't judge."""
