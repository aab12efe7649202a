"""PyTorch checkpoints in and out; the only package that may import torch, and only for `.bin`."""
