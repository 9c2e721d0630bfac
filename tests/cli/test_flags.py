"""Parameters that library messages name are shown as the flags of the command."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from cocoop.cli.flags import with_flags


@dataclass
class Options:
    batch_size: int = 1
    precision: str = "fp32"


@dataclass
class Command:
    output: str = "out"
    skip_unreadable: bool = False
    options: Options = field(default_factory=Options)
    renamed_flags: ClassVar[dict[str, str]] = {"run": "output"}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`batch_size` is 0; it must be at least 1.", "--batch-size is 0; it must be at least 1."),
        ("Pass `skip_unreadable=True` to skip them.", "Pass --skip-unreadable to skip them."),
        ('Try `precision="bf16"` or a smaller `batch_size`.', "Try --precision bf16 or a smaller --batch-size."),
        ("Give another `run`.", "Give another --output."),
        ("`top_k` belongs to another command.", "`top_k` belongs to another command."),
        ("The class `cat dog` is no parameter.", "The class `cat dog` is no parameter."),
    ],
)
def test_parameters_become_flags_of_the_command(message, shown):
    assert with_flags(message, Command()) == shown


def test_messages_before_a_command_is_parsed_stay_as_they_are():
    assert with_flags("`batch_size` is 0.", None) == "`batch_size` is 0."
