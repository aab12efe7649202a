"""Asynchronous checkpoints of a training run."""

import dataclasses
import logging
import math
from typing import Any

from etils import epath
from orbax.checkpoint import v1 as ocp

from input_pipeline.paths import absolute, is_uri
from legion_jax import distributed
from legion_jax.models import param_tree
from legion_jax.weights import checkpoint

LOG = logging.getLogger("legion_jax")

# Copies of a parameter share its writing from this size of a share on. Each size of a share is a
# program to compile at the first save, a hundred and more of them for nothing where they are small.
SHARED_BYTES = 2**22


class RunCheckpoints:
    """Asynchronous checkpoints of a training run, and the way back to the newest one."""

    def __init__(self, workdir: epath.PathLike, *, every: int, keep: int, keep_every: int = 0,
                 keep_best: int = 0, metric: str = ""):
        """`every` updates one is written; which of them stay:

        Args:
            keep: the newest ones.
            keep_every: those of steps that this number divides, if it is not 0.
            keep_best: so many of the highest rank by `metric`, among those that have one.
        """
        self.directory = absolute(workdir) / "checkpoints"
        self._every, self._saved, self._metric = every, None, metric
        # In a bucket Orbax would take a copied checkpoint that lacks one file for unfinished.
        in_bucket = is_uri(workdir)
        if in_bucket:
            distributed.first_host(lambda: checkpoint.remove_unfinished(workdir))
        policies = ocp.training.preservation_policies
        preserved = [policies.LatestN(keep)]
        if keep_every:
            preserved.append(policies.EveryNSteps(keep_every))
        if keep_best:
            preserved.append(policies.BestN(
                get_metric_fn=self._rank, n=keep_best,
                keep_checkpoints_without_metrics=False))
        context = ocp.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = SHARED_BYTES
        self._orbax = ocp.training.Checkpointer(
            self.directory, context=context,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(every),
            preservation_policy=policies.AnyPreservationPolicy(preserved),
            cleanup_tmp_directories=not in_bucket)

    def save(self, step: int, params: dict, optimizer: Any, *, force: bool = False,
             rank: float | None = None) -> None:
        """Start writing when `step` (updates done) is due; the arrays may be donated afterwards.

        `rank`: how good the run is by its metric after this step, if known; more is better.
        """
        if force and self._saved == step:
            return
        if force or step % self._every == 0:
            self._saved = step
        self._orbax.save_checkpointables_async(
            step, {"params": params, "optimizer": optimizer}, force=force,
            metrics=None if rank is None else dataclasses.asdict(
                checkpoint.Rank(self._metric, rank)))

    def _rank(self, metrics: dict) -> float:
        """The last of all is what was ranked by another metric, or, as runs once did, by the loss.
        """
        return metrics["rank"] if metrics.get("metric") == self._metric else -math.inf

    def restore(self, params: dict, optimizer: Any) -> tuple[int, dict, Any] | None:
        """(step, params, optimizer) of the newest checkpoint, laid out like the abstract trees.

        The first host chooses the step for all: others may not see it yet.
        """
        step = distributed.first_host(lambda: checkpoint.latest_step(self.directory.parent))
        if step is None:
            return None
        path = checkpoint.step_folder(self.directory.parent, step)
        with checkpoint.reading(path):
            arrays = ocp.checkpointables_metadata(path).metadata["params"]
        checkpoint.check_shapes(str(path), param_tree.flatten(arrays), param_tree.flatten(params))
        with checkpoint.reading(path):
            loaded = self._orbax.load_checkpointables(
                step, {"params": params, "optimizer": optimizer})
        self._saved = step
        LOG.info("resumed from step %d (%s)", step, path)
        return step, loaded["params"], loaded["optimizer"]

    def close(self) -> None:
        """Wait for the write in flight."""
        self._orbax.close()
