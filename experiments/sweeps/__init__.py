"""Sweeps: one recipe run several times with other knobs, see tools/sweep.py."""
