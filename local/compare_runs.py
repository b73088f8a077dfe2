#!/usr/bin/env python3
"""Compare the runs of comparison.json: see espnet_reuse/comparison/runs.py."""

from espnet_reuse.comparison.runs import main

main()
