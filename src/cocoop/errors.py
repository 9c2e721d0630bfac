"""The error tree. Every mistake a user can make raises one of these, with what was seen and what to do."""

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
]


LONGEST_MESSAGE = 1200
"""Characters of a message."""


class CocoopError(Exception):
    """Root of all errors that cocoop raises on purpose; the command line prints it as one line.

    A message quotes what was seen, and a name in a stranger's file may be as long as the file: the middle is left out.
    """

    def __str__(self) -> str:
        text = super().__str__()
        half = LONGEST_MESSAGE // 2
        return text if len(text) <= LONGEST_MESSAGE else f"{text[:half]} [...] {text[-half:]}"


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


class CocoopWarning(UserWarning):
    """Root of what a user should know though the work goes on; the command line prints it as a note."""


class DamageWarning(CocoopWarning):
    """A file is damaged, and what it held is made anew."""


class MemoryWarning(CocoopWarning):
    """Memory did not suffice; the work goes on in smaller parts, more slowly, with the same numbers up to rounding."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch or Python ran out of memory, on a GPU or a CPU."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "DefaultCPUAllocator" in text


def about_memory(error: Exception) -> str | None:
    """What to do where memory does not suffice; None for any other error, whose traceback is needed."""
    text = str(error)
    if text.startswith("DataLoader worker"):
        return (
            "A process that decodes photos died, for want of memory or (in small containers) of shared memory; "
            "try --workers 0."
        )
    if is_out_of_memory(error):
        return "Memory does not suffice; try a smaller --batch-size, --precision bf16 or a smaller --backbone."
    return None
