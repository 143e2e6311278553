"""Scores of predictions, their intervals, calibration and thresholds: pure functions of arrays."""
