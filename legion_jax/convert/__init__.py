"""PyTorch checkpoints in and out; the only room of legion_jax that imports torch."""
