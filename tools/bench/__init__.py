"""Parts of tools.bench: sizes and inputs, the two contestants, turns, floors, the GPU's figures."""
