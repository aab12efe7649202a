"""Scoring a checkpoint: metrics, calibration, the report."""
