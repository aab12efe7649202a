"""Pages about evaluations: the report of one, and the comparison of two."""

from legion_jax.evaluation.pages.report import write_report

__all__ = ["write_report"]
