"""Base-to-new tables from records."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cocoop.report.tables import base_to_new_caption, base_to_new_table, base_to_new_values, signed, summary


def record(method, base, new):
    h = 2 * base * new / (base + new)
    return {"method": method, "base": {"accuracy": base}, "new": {"accuracy": new}, "harmonic_mean": h}


RECORDS = [record("zero-shot", 60.0, 40.0), record("coop", 90.0, 30.0), record("zero-shot", 60.0, 40.0)]
RECORDS.append(record("coop", 80.0, 40.0))


def printed(records) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(base_to_new_table(records, "Some title"))
    return file.getvalue()


def test_values_are_grouped_by_method_in_the_order_of_the_records():
    values = base_to_new_values(RECORDS)
    assert list(values) == ["zero-shot", "coop"]
    assert values["coop"] == {"base": [90.0, 80.0], "new": [30.0, 40.0], "H": [45.0, 2 * 80 * 40 / 120]}


def test_h_is_the_mean_of_the_seeds_h():
    # The H of the mean accuracies (85 and 35) would be 49.6.
    assert summary(base_to_new_values(RECORDS)["coop"]["H"]) == "49.2 ± 5.9"
    assert "H is the mean of the seeds' H" in base_to_new_caption(RECORDS)


def test_one_value_has_no_deviation_and_two_have_the_sample_deviation():
    assert summary([61.25]) == "61.2"
    assert summary([60.0, 62.0]) == "61.0 ± 1.4"
    assert "±" not in base_to_new_caption(RECORDS[:2])
    assert "mean ± standard deviation (n - 1) over 2 seeds" in base_to_new_caption(RECORDS)


def test_the_terminal_shows_names_numbers_and_a_caption():
    text = printed(RECORDS)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert rows == [
        ["zero-shot CLIP", "60.0 ± 0.0", "40.0 ± 0.0", "48.0 ± 0.0"],
        ["CoOp", "85.0 ± 7.1", "35.0 ± 7.1", "49.2 ± 5.9"],
    ]
    assert text.startswith("Some title\n")
    assert text.splitlines()[-1] == base_to_new_caption(RECORDS)


def test_an_unknown_method_is_shown_by_its_key():
    assert "my [bold]method" in printed([record("my [bold]method", 1.0, 1.0)])


MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("change", "decimals", "text"),
    [
        (0.04, 1, "0.0"),
        (-0.04, 1, "0.0"),
        (-1.25, 1, f"{MINUS}1.2"),
        (3, 1, "+3.0"),
        (0.4, 0, "0"),
        (-0.4, 0, "0"),
        (12.6, 0, "+13"),
        (-0.6, 0, f"{MINUS}1"),
    ],
)
def test_a_change_has_a_sign_unless_it_is_zero(change, decimals, text):
    assert signed(change, decimals) == text
