"""What the sweeps here have in common: the recipe at its full size or tiny, and the numbers."""

from legion_jax.train import recipes
from legion_jax.train.sweep_plan import Sweep, SweepError

F1 = "localisation.mean_with_artifacts.f1"  # photos without artifacts would only dilute it
ALSO = ("localisation.mean.f1", "localisation.mean.miou", "text.rouge_l", "train.loss")
LOCALISATION = recipes.load("base").LOCALISATION


TINY = {
    "init_from": "demo/run", "data.data_dir": "demo/data", "data.eval_split": "test[:40]",
    "trainable": LOCALISATION, "frozen_dtype": "float32", "model.lora_rank": 8,
    "loss.verdict": 0.0,  # its head is not among the trainable
    "batch_size": 8, "log_every": 5, "checkpoint_every": 10, "optimizer.total_steps": 40,
    "optimizer.warmup_steps": 5, "optimizer.learning_rate": 5e-4}


def sweep(size: str, runs, also: tuple[str, ...] = ALSO) -> Sweep:
    """Runs that fine-tune by the localisation recipe, compared by F1.

    Args:
        size: "" for the full recipe; "tiny" starts from what `make demo` trained and needs minutes
            on two CPU cores.
        runs, also: as `Sweep` has them.

    Raises SweepError for another size.
    """
    if size not in ("", "tiny"):
        raise SweepError(f"size {size!r}: there is only `tiny`, or none for the full recipe")
    base, common = ("tiny", TINY) if size else ("base", {})
    return Sweep(base=base, common=common, runs=runs, metric=F1, also=also)
