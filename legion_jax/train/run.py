"""A whole run, top to bottom: devices, shapes, parameters, data, then one compiled call per update.

A run that was killed continues from its newest checkpoint and logs what an unbroken one would have
logged.
"""

import contextlib
import logging
from collections.abc import Callable

import jax
import ml_collections
from etils import epath

from input_pipeline.batches import loader
from input_pipeline.errors import UserError
from legion_jax import distributed, sharding
from legion_jax.distributed import Preempted, Preemption
from legion_jax.models import param_tree
from legion_jax.train import (
    data as train_data,
    knobs,
    metrics_log,
    optim,
    pictures,
    profiling,
    setup,
    speed,
)
from legion_jax.train.pictures import Pictures
from legion_jax.train.profiling import Profile
from legion_jax.train.speed import Speed
from legion_jax.train.step import TrainState, init_state
from legion_jax.weights import checkpoint, run_checkpoints

LOG = logging.getLogger("legion_jax")


class TrainingError(UserError):
    """An update that no training can go on from; the message names its step."""


def train(config: ml_collections.ConfigDict, workdir: epath.PathLike, *,
          profile: bool = False) -> TrainState:
    """Run the training described by a config; returns the final state.

    `profile` traces a few updates into `workdir/profile`.
    """
    workdir = epath.Path(workdir)
    # A restart, and hosts that come later, need not compile again.
    if config.compile_cache and not jax.config.jax_compilation_cache_dir:
        compiled = checkpoint.absolute(workdir / "compiled")
        jax.config.update("jax_compilation_cache_dir", str(compiled))
    mesh = sharding.make_mesh(config.mesh)
    knobs.check_values(config, batch_shards=mesh.shape["data"] * mesh.shape["fsdp"])
    task = setup.read_task(config)
    rows = train_data.open_rows(config, task.tokenizer, task.examples, task.model,
                                sharding.local_rows(mesh, config.batch_size))
    data = loader.train_batches(rows)
    optimizer = optim.make(config.optimizer)
    with jax.set_mesh(mesh):
        graph, abstract, frozen = setup.abstract_state(config, task.model, optimizer, mesh)
        params, frozen = setup.first_params(config, task.model, abstract.params, frozen)
        if jax.process_index() == 0:
            setup.write_run_files(config, task, abstract.params, workdir)
        layout = jax.tree.map(lambda x: x.sharding, abstract)
        state = jax.jit(lambda p: init_state(p, optimizer), out_shardings=layout)(params)
        LOG.info("%s trainable, %s frozen parameters on %d devices",
                 f"{param_tree.count(state.params):,}", f"{param_tree.count(frozen):,}",
                 mesh.size)
        where = {"image_index": task.image_index, "first_target": task.first_target}
        step = setup.jit_step(config, graph, optimizer, layout, seg_id=task.tokenizer.seg_id,
                              **where)
        checkpoints = run_checkpoints.RunCheckpoints(
            workdir, every=config.checkpoint_every, keep=config.checkpoint_keep,
            keep_every=config.checkpoint_keep_every, keep_best=config.checkpoint_keep_best)
        try:
            if restored := checkpoints.restore(abstract.params, abstract.optimizer):
                number, params, opt_state = restored
                number = jax.device_put(number, layout.step).astype("int32")
                state = state.replace(step=number, params=params, optimizer=opt_state)
            with distributed.Preemption() as stop:
                return update(
                    config, data, step, state, frozen, mesh, checkpoints, stop,
                    speed=speed.of_run(config, task.model, task.examples, **where),
                    pictures=pictures.of_run(config, graph, rows, task.tokenizer, mesh,
                                             image_index=task.image_index),
                    profile=profiling.Profile(workdir / "profile" if profile else None))
        finally:
            checkpoints.close()


def update(config, data, step: Callable, state: TrainState, frozen: dict, mesh,
           checkpoints: run_checkpoints.RunCheckpoints, stop: Preemption, *,
           speed: Speed, pictures: Pictures | None, profile: Profile) -> TrainState:
    """Update until `total_steps`; returns the final state.

    Metrics are fetched only when they are logged, so the devices never wait for the host.

    Raises:
        Preempted: told to stop; the state is saved.
        TrainingError: a loss or gradient that is not finite, or a loss above config.stop_above;
            the state before that update is saved.
        ConfigError: too many records that cannot be used.
    """
    start, total = int(state.step), config.optimizer.total_steps
    rows = train_data.from_step(config, data, start)
    metrics = _Metrics(config, checkpoints, speed, pictures, start)
    step = profile.watch(speed.watch(step), speed, start)
    try:
        for number in range(start, total):
            batch = sharding.from_local_rows(mesh, next(rows), config.batch_size)
            state, values = step(state, frozen, batch)
            metrics.add(number, values)
            done = number + 1
            told = stop.reached(done)
            # Whatever a checkpoint knows of must be in the log before it, or a kill would lose it.
            if (told or done % config.log_every == 0 or done % config.checkpoint_every == 0
                    or done == total):
                if (bad := metrics.flush()) is not None:
                    checkpoints.save(bad["step"], state.params, state.optimizer, force=True)
                    raise _halted(bad, config.stop_above)
            checkpoints.save(done, state.params, state.optimizer, force=told or done == total,
                             loss=metrics.loss)
            if told and done < total:
                LOG.info("stopped by SIGTERM after step %d; the same command goes on", done)
                raise Preempted
            metrics.show(done, state.params, frozen)
        return state
    finally:
        profile.close()
        metrics.close()


def _halted(row: dict, limit: float) -> TrainingError:
    above = limit and row["loss"] > limit
    what = f"the loss is above config.stop_above {limit:g}" if above else "not finite"
    return TrainingError(
        f"step {row['step']}: loss {row['loss']:g} (ce {row['ce']:g}, bce {row['bce']:g}, dice "
        f"{row['dice']:g}, verdict {row['verdict']:g}), grad_norm {row['grad_norm']:g}: {what}. "
        f"Checkpoint {row['step']} is the state before this update; a run with other knobs can "
        f"start there (--config.init_from)")


class _Metrics:
    """Rows of metrics between two looks at them; all hosts look, one writes.

    Attributes:
        loss: mean over the last rows that were looked at; None before the first.
    """

    def __init__(self, config, checkpoints: run_checkpoints.RunCheckpoints, speed: Speed,
                 pictures: Pictures | None, start: int):
        self._config, self._speed, self._pending, self.loss = config, speed, [], None
        self._pictures, self._drawn = pictures, False
        self._bad = train_data.BadRecords(config.data.max_bad)
        self._log = None
        if jax.process_index() == 0:
            self._log = metrics_log.MetricsLog(checkpoints.directory.parent, start=start,
                                               total=config.optimizer.total_steps)

    def add(self, number: int, values: dict[str, jax.Array]) -> None:
        self._pending.append((number, values))

    def flush(self) -> dict[str, float] | None:
        """Fetch and log what is there; returns the row of an update that was refused."""
        values = jax.device_get([values for _, values in self._pending])
        rows = [(number, {name: float(x) for name, x in row.items()})
                for (number, _), row in zip(self._pending, values, strict=True)]
        self._pending = []
        rates = self._speed.look([row["tokens"] for _, row in rows])
        halted = [i for i, (_, row) in enumerate(rows) if row["halted"]]
        if halted:
            rows = rows[:halted[0] + 1]
        for _, row in rows:
            row.pop("halted")
        if self._log:
            self._log.write(rows, rates)
        for _, row in rows:
            self._bad.add(row["bad"], self._config.batch_size)
        self.loss = sum(row["loss"] for _, row in rows) / len(rows)
        return {"step": rows[-1][0]} | rows[-1][1] if halted else None

    def show(self, done: int, params: dict, frozen: dict) -> None:
        """Draw pictures where they are due after `done` updates; all hosts take part."""
        every = self._config.log_images_every
        if self._pictures is None or done % every:
            return
        # The first time compiles.
        with contextlib.nullcontext() if self._drawn else self._speed.apart(params):
            drawn = self._pictures(params, frozen)
        self._drawn = True
        if self._log:
            self._log.add_pictures(done - 1, drawn)

    def close(self) -> None:
        if self._log:
            self._log.close()
