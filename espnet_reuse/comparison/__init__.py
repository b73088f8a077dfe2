# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The comparison: from a corpus to a table of models, through ESPnet's asr.sh."""
