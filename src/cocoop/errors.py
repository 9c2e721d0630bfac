"""The error tree. Every mistake a user can make raises one of these, with what was seen and what to do."""

__all__ = [
    "BackboneError",
    "CheckpointError",
    "CocoopError",
    "ConfigError",
    "DataError",
    "PromptError",
    "TrainingError",
]


class CocoopError(Exception):
    """Root of all errors that cocoop raises on purpose; the command line prints it as one line."""


class ConfigError(CocoopError):
    """A setting is out of range, or settings contradict each other."""


class DataError(CocoopError):
    """A data set, manifest, split file or photo cannot be used."""


class BackboneError(CocoopError):
    """A backbone is unknown, unreachable or of a kind that prompt learning cannot use."""


class PromptError(CocoopError):
    """A class name, template or context cannot be made into a prompt."""


class CheckpointError(CocoopError):
    """A saved run is missing, damaged or does not fit what it is loaded into."""


class TrainingError(CocoopError):
    """Training cannot go on, for example because the loss is not finite."""
