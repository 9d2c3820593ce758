"""From a NeMo checkpoint to four OpenVINO graphs: checkpoint, graphs, parity, bundle."""

import os
import sys

# ONNX Runtime, which NeMo imports, reports to its maker from its own import on, and keeps a session file in TMPDIR.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# OpenVINO's converter and NNCF report every conversion to their maker, each time from a fork of this process, and do
# without where the reporting package cannot be imported. A fork of a process that holds a model costs seconds.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
