"""The whole path at a small size, and the page that shows it."""
