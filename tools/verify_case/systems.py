"""The systems whose golden cases are known, and what is checked of each."""

import pathlib

from tools.verify_case.case import CaseError, System, need
from tools.verify_case.fakevlm import (
    fakevlm_answers,
    fakevlm_case,
    fakevlm_curve,
    fakevlm_forward,
    fakevlm_inputs,
    fakevlm_training,
)
from tools.verify_case.legion import legion_case
from tools.verify_case.legion.legion_answers import check_answers, check_teacher_forced
from tools.verify_case.legion.legion_curve import check_curve
from tools.verify_case.legion.legion_forward import check_reading, check_sight
from tools.verify_case.legion.legion_inputs import check_pixels, check_text
from tools.verify_case.legion.legion_training import check_gradients, check_losses
from tools.verify_case.sida import (
    sida_answers,
    sida_case,
    sida_curve,
    sida_forward,
    sida_inputs,
    sida_training,
)

LEGION = System(
    name="LEGION", marker="inputs.npz", open_case=legion_case.open_case, curve=(check_curve,),
    checks=(check_text, check_pixels, check_sight, check_reading, check_losses, check_gradients,
            check_answers, check_teacher_forced))
FAKEVLM = System(
    name="FakeVLM", marker="train.json", open_case=fakevlm_case.open_case,
    curve=(fakevlm_curve.check_curve,),
    checks=(fakevlm_inputs.check_rows, fakevlm_inputs.check_full_vocabulary,
            fakevlm_inputs.check_prompts, fakevlm_inputs.check_verdicts,
            fakevlm_inputs.check_accuracies, fakevlm_inputs.check_pixels,
            fakevlm_forward.check_sight, fakevlm_forward.check_reading,
            fakevlm_training.check_losses,
            fakevlm_training.check_gradients, fakevlm_answers.check_answers,
            fakevlm_answers.check_forced_prefix))
SIDA = System(
    name="SIDA", marker="stage2_end_rows.npz", open_case=sida_case.open_case,
    curve=(sida_curve.check_curve,),
    checks=(sida_inputs.check_rows, sida_inputs.check_answers_text, sida_inputs.check_pixels,
            sida_forward.check_sight, sida_forward.check_reading, sida_training.check_losses,
            sida_training.check_gradients, sida_training.check_validation,
            sida_answers.check_answers))
SYSTEMS = (LEGION, FAKEVLM, SIDA)


def system_of(root: pathlib.Path) -> System:
    """The system of a case. Raises CaseError for a folder that is no case."""
    need(root, ("meta.json",))
    for system in SYSTEMS:
        if (root / system.marker).exists():
            return system
    known = ", ".join(f"{system.marker} ({system.name})" for system in SYSTEMS)
    raise CaseError(f"{root}: says of no system that it is a case of it; there is none of {known}")
