# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Tables of what people bring: what is tried, whether it is taken, what is said."""

from collections.abc import Callable
from typing import NamedTuple

import pytest


class Row(NamedTuple):
    """An input that somebody may bring.

    Attributes:
        tried: What is tried, in a few words; the test's name.
        make: Function that makes it; each table says what it is given.
        outcome: `taken`, nothing is said; `noted`, taken with a note; `refused`.
        line: A part of the line that is printed; of all lines, if nothing is to be
            said, the part that must not be there.
    """

    tried: str
    make: Callable
    outcome: str
    line: str = ""


def each(table: list[Row]):
    """Make a test of each row, under the name of what is tried."""
    names = [f"{row.tried}: {row.outcome}" for row in table]
    assert len(set(names)) == len(names), "two rows try the same"
    return pytest.mark.parametrize("row", table, ids=names)
