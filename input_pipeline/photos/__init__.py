"""Pixels: photos from files, the views of them the model takes, regions, and damage on purpose."""
