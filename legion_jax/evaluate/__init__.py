"""How predictions are scored: per photo, per data set, with intervals, damaged and calibrated."""
