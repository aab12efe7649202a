"""Golden cases of LEGION, and of models like it."""
