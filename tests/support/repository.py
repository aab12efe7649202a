"""Where the repository lies, and what may lie beside it."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"
SLIM_GOLDEN = ROOT / "tests" / "golden"  # reference vectors that every clone has
SHARED = ROOT.parent / "shared"  # of those who have it; tests that need it are skipped elsewhere
