# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The comparison: from a corpus to a table of models, through ESPnet's asr.sh."""
