"""Check every quantity of a golden case against the published code's outputs.

    python -m tools.verify_case CASE_DIR [--json FILE] [--curve] [--device=gpu]

The case's folder says of which system it is: LEGION, FakeVLM or SIDA.

Prints a table of quantity, largest difference, tolerance and pass or fail; exits with 1 when
anything fails. `--curve` also follows the case's training run. Tolerances are those of float32 on
a CPU, which computes by default; `--device=gpu` holds a GPU's float32 to the same ones.

`--slim ARCHIVE` checks nothing: it writes a case of LEGION without its largest arrays into one
archive. A folder that holds such a case.tar.xz, as tests/golden does, is a case, too.
"""

import jax
from absl import flags

from input_pipeline import files
from input_pipeline.errors import UserError
from input_pipeline.paths import local_only
from legion_jax import command
from tools.verify_case import slim
from tools.verify_case.comparisons import Results
from tools.verify_case.systems import system_of

REASON = "its arrays are mapped"
CURVE_ARRAYS = ("curve_", "final/")  # of outputs.npz, where a training run has no folder of its own


def verify(folder: str, *, curve: bool = False) -> Results:
    """Run all checks of a case; arrays of outputs.npz that none of them read count as failures."""
    with slim.unpacked(local_only(folder, "CASE_DIR", REASON)) as root:
        system = system_of(root)
        case = system.open_case(root)
        results = Results(*case.stored, noise=case.noise)
        for check in (*system.checks, *(system.curve if curve else ())):
            check(case, results)
    for name in sorted(case.reference.unused):
        if name.startswith(CURVE_ARRAYS) and not curve:
            results.left_to_curve.append(name)
        else:
            results.add(f"{name} (not compared)", float("nan"), 0, "")
    return results


def report(folder: str, results: Results, json_file: str | None) -> int:
    """Print what was compared, and write it to `json_file`; returns the exit code."""
    results.print()
    failed = results.failures
    print(f"{len(results.rows) - len(failed)} of {len(results.rows)} quantities pass")
    if results.left_out:
        print(f"{len(results.left_out)} are left out of this slim case: "
              f"{', '.join(results.left_out)}")
    if results.left_to_curve:
        print(f"{len(results.left_to_curve)} arrays of the training run are left to --curve")
    if json_file:
        files.write_json(json_file, {
            "case": folder, "passed": not failed, "quantities": results.as_json(),
            "left_out": results.left_out, "left_to_curve": results.left_to_curve})
    return 1 if failed else 0


def main() -> None:
    """Verify the case that the command line names."""
    curve = flags.DEFINE_bool("curve", False, "Also follow the case's training run.")
    json_file = flags.DEFINE_string("json", None, "Also write the table to this file.")
    device = flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "What computes.")
    archive = flags.DEFINE_string("slim", None, "Only write a slim case to this archive.")

    def run(folder: str) -> int:
        if archive.value:
            slim.write(local_only(folder, "CASE_DIR", REASON),
                       local_only(archive.value, "--slim", REASON))
            return 0
        if device.value == "cpu":
            jax.config.update("jax_platforms", "cpu")
        elif jax.default_backend() != "gpu":
            raise UserError(f"--device=gpu: JAX finds no GPU here, only {jax.default_backend()}")
        return report(folder, verify(folder, curve=curve.value), json_file.value)

    command.run(run, arguments=("CASE_DIR",))


if __name__ == "__main__":
    main()
