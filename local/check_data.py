#!/usr/bin/env python3
"""Check Kaldi data directories and the audio they list: see espnet_reuse.data.check."""

from espnet_reuse.data.check import main

main()
