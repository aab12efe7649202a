"""Pages about evaluations: the report of one, and the comparison of two."""

from legion_jax.evaluate.report.page import write_report

__all__ = ["write_report"]
