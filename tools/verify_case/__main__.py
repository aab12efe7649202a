"""Check every quantity of a golden case against the published code's outputs.

    python -m tools.verify_case CASE_DIR [--json FILE] [--curve]

Prints a table of quantity, largest difference, tolerance and pass or fail; exits with 1 when
anything fails. `--curve` also follows the case's training run.
"""

import argparse
import sys

import jax

from input_pipeline import files
from input_pipeline.errors import UserError
from tools.verify_case.answers import check_answers, check_teacher_forced
from tools.verify_case.case import open_case
from tools.verify_case.comparisons import Results
from tools.verify_case.curve import check_curve
from tools.verify_case.forward import check_reading, check_sight
from tools.verify_case.inputs import check_pixels, check_text
from tools.verify_case.training import check_gradients, check_losses

CHECKS = (check_text, check_pixels, check_sight, check_reading, check_losses, check_gradients,
          check_answers, check_teacher_forced)


def verify(folder: str, *, curve: bool = False) -> Results:
    """Run all checks of a case; arrays of outputs.npz that none of them read count as failures."""
    case, results = open_case(folder), Results()
    for check in CHECKS + ((check_curve,) if curve else ()):
        check(case, results)
    for name in sorted(case.reference.unused):
        results.add(f"{name} (not compared)", float("nan"), 0, "")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", help="folder of a golden case")
    parser.add_argument("--json", help="also write the table to this file")
    parser.add_argument("--curve", action="store_true", help="also follow the training run")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # tolerances are stated for float32 on a CPU
    try:
        results = verify(arguments.case, curve=arguments.curve)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results.print()
    failed = results.failures
    print(f"{len(results.rows) - len(failed)} of {len(results.rows)} quantities pass")
    if arguments.json:
        files.write_json(arguments.json, {
            "case": arguments.case, "passed": not failed, "quantities": results.as_json()})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
