"""A recipe run several times with other knobs, and what came of it."""
