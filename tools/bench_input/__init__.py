"""Parts of tools.bench_input: photos to measure with, the contestants, the stages."""
