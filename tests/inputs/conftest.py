# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Lets the tables of inputs import their form."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for table
