"""LEGION in JAX: a verdict, an explanation and artifact masks for a photo."""
