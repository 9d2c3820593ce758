"""Does a folder transcribe like its reference? Runtimes, scores, comparison and the report."""
