"""The towers of LEGION, one file each.

Axis letters used in every comment and docstring of this package:

B batch, T text ids, P image patches, S sequence (text and patches), D width, F mlp width, N heads,
H head width, L layers, K mask slots, Y and X grid rows and columns, C canvas side, V vocabulary,
R LoRA rank.
"""
