"""From a NeMo checkpoint to four OpenVINO graphs: checkpoint, graphs, parity, bundle."""
