# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What ESPnet3 imports, imported once with Ctrl-C put back as it was."""

import signal

# importing dask_jobqueue turns SIGINT, of the whole process, into sys.exit()
_handler = signal.getsignal(signal.SIGINT)
import dask_jobqueue  # noqa: E402, F401

signal.signal(signal.SIGINT, _handler)
