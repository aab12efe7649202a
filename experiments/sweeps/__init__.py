"""Sweeps: one recipe run several times with other knobs, see tools/sweep/__main__.py."""
