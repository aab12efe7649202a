"""What a compiled program costs on a TPU that is not there; see tools.aot_report."""
