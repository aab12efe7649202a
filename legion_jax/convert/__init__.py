"""PyTorch checkpoints in and out; the only room that imports torch, for `.bin` and `.pth`."""
