"""Errors and warnings. Messages say what happened and what to do; they name parameters in backticks."""

__all__ = [
    "BackboneError",
    "CheckpointError",
    "CocoopError",
    "CocoopWarning",
    "ConfigError",
    "DamageWarning",
    "DataError",
    "MemoryWarning",
    "PromptError",
    "TrainingError",
    "about_memory",
    "is_out_of_memory",
    "one_line",
]


MAX_MESSAGE_LENGTH = 1200
"""Length of a message in characters; names quoted from files can be arbitrarily long."""


class CocoopError(Exception):
    """Base class of all errors that cocoop raises on purpose; the command line prints them as one line."""

    def __str__(self) -> str:
        text = super().__str__()
        half = MAX_MESSAGE_LENGTH // 2
        return text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[:half]} [...] {text[-half:]}"


class ConfigError(CocoopError):
    """A setting is out of range, or settings contradict each other."""


class DataError(CocoopError):
    """A data set, manifest, split file or image cannot be used."""


class BackboneError(CocoopError):
    """A backbone is unknown, cannot be downloaded or is not suitable for prompt learning."""


class PromptError(CocoopError):
    """A class name, template or context cannot be used in a prompt."""


class CheckpointError(CocoopError):
    """A saved file is missing, damaged, does not fit or cannot be written."""


class TrainingError(CocoopError):
    """Training cannot continue, for example because the loss is not finite."""


class CocoopWarning(UserWarning):
    """Base class of all warnings; the command line prints them as notes."""


class DamageWarning(CocoopWarning):
    """A damaged file is ignored and its content computed again."""


class MemoryWarning(CocoopWarning):
    """Memory ran out; work continues in smaller steps, more slowly but with the same results up to rounding."""


def one_line(error: BaseException) -> str:
    """Return the message of an exception on one line and without a final full stop, or its class if it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def is_out_of_memory(error: Exception) -> bool:
    """Return True if PyTorch or Python ran out of memory, on a GPU or a CPU."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "DefaultCPUAllocator" in text


def about_memory(error: Exception) -> str | None:
    """Return advice for an out-of-memory error; None for any other error."""
    if str(error).startswith("DataLoader worker"):
        return (
            "A process that decodes images died, probably because memory or (in containers) shared memory ran out; "
            "try `workers=0`."
        )
    if is_out_of_memory(error):
        return 'Memory ran out; try a smaller `batch_size`, `precision="bf16"` or a smaller `backbone`.'
    return None
