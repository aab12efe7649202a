"""A data set made from photographs that come with scikit-image: scars with known outlines."""
