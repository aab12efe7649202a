"""How much rank the LoRA of query and value needs.

    python -m tools.sweep --sweep experiments/sweeps/lora_rank.py:tiny --output sweeps/lora_rank
"""

from legion_jax.train import recipes
from legion_jax.train.sweep_plan import Sweep

sizes = recipes.load("sweeps/sweep_sizes")


def get_sweep(size: str = "") -> Sweep:
    ranks = (1, 2, 4, 8) if size else (2, 4, 8, 16, 32, 64)
    # Alpha grows with the rank: the update is scaled by alpha / rank, and with a constant alpha
    # the ranks would differ in their step size as well.
    runs = {f"rank={rank}": {"model.lora_rank": rank, "model.lora_alpha": 2.0 * rank}
            for rank in ranks}
    return sizes.sweep(size, runs)
