"""Parts of tools.aot_report: topologies, lowering, and what the text of a program tells."""
