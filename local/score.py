#!/usr/bin/env python3
"""Score what ESPnet has decoded: see espnet_reuse/comparison/score.py."""

from espnet_reuse.comparison.score import main

main()
