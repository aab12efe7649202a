"""Parameters on disk: checkpoints, the checkpoints of a run, and the files they are made of."""
