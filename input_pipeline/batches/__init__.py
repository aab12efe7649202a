"""Batches: records as examples of fixed shape, in an order that depends on seed and step alone."""
