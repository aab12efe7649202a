"""Parameters of a checkpoint, of PyTorch folders or of a config, listed with sizes and origins."""
