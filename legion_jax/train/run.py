"""A whole run, top to bottom: devices, shapes, parameters, data, then one compiled call per update.

A run that was killed continues from its newest checkpoint and logs what an unbroken one would have
logged.
"""

import contextlib
import logging
from collections.abc import Callable

import grain
import jax
import ml_collections
import numpy as np
import optax
from etils import epath

from input_pipeline import in_use, paths
from input_pipeline.batches import loader
from input_pipeline.errors import UserError
from legion_jax import distributed, memory, sharding
from legion_jax.config import LegionConfig
from legion_jax.models import param_tree
from legion_jax.train import (
    data as train_data,
    evaluation,
    losses,
    optim,
    pictures,
    setup,
    speed,
)
from legion_jax.train.knobs import RunSettings
from legion_jax.train.metrics_log import MetricsLog
from legion_jax.train.step import TrainState, init_state
from legion_jax.weights import checkpoint
from legion_jax.weights.run_checkpoints import RunCheckpoints

LOG = logging.getLogger("legion_jax")
# What takes less memory in a run.
LESS = ("config.accumulation above 1, a smaller config.batch_size, config.data.text_length or "
        "config.data.mask_slots, config.model.remat layers, or config.mesh over more devices")
AHEAD = 2  # updates that wait for the devices, so that these never wait for the host


class TrainingError(UserError):
    """An update that no training can go on from; the message names its step."""


def train(config: ml_collections.ConfigDict, workdir: epath.PathLike, *,
          profile: bool = False) -> TrainState:
    """Run the training described by a config; returns the final state.

    `profile` traces a few updates into `workdir/profile`. Raises ConfigError for a config that no
    run could use, InUseError where another run is in the work directory, and what `update` raises.
    """
    settings = RunSettings.from_config(config)
    workdir = paths.folder(str(workdir), "--workdir")
    first = jax.process_index() == 0
    with (memory.told("training", LESS),
          in_use.alone(workdir, "training") if first else contextlib.nullcontext()):
        return _train(settings, workdir, profile=profile)


def _train(settings: RunSettings, workdir: epath.Path, *, profile: bool) -> TrainState:
    # A restart, and hosts that come later, need not compile again.
    if settings.compile_cache and not jax.config.jax_compilation_cache_dir:
        compiled = paths.absolute(workdir / "compiled")
        jax.config.update("jax_compilation_cache_dir", str(compiled))
    mesh = sharding.make_mesh(settings.mesh)
    settings.check_batch(mesh.shape["data"] * mesh.shape["fsdp"])
    task = setup.read_task(settings)
    rows = train_data.open_rows(settings, task.tokenizer, task.examples, task.model,
                                sharding.local_rows(mesh, settings.batch_size))
    score = evaluation.of_run(settings, task, mesh)
    optimizer = optim.make(settings.optimizer)
    with jax.set_mesh(mesh):
        graph, abstract, frozen = setup.abstract_state(
            task.model, optimizer, mesh, trainable=settings.stored,
            frozen_dtype=settings.frozen_dtype)
        if jax.process_index() == 0:  # a workdir that cannot be written is noticed before the work
            setup.write_run_files(settings, task, abstract.params, workdir)
        sharding.warn_of_copies(
            param_tree.flatten(abstract.params) | param_tree.flatten(frozen), mesh)
        base = setup.open_base(settings, abstract.params, frozen)
        LOG.info("%s trainable, %s frozen parameters on %d devices",
                 f"{param_tree.count(abstract.params):,}", f"{param_tree.count(frozen):,}",
                 mesh.size)
        step = setup.jit_step(settings, graph, optimizer, _layout(abstract),
                              reading=task.reading)
        distributed.wait_for_others()  # checkpoints begin with a collective
        with contextlib.closing(RunCheckpoints(
                workdir, every=settings.checkpoint_every, keep=settings.checkpoint_keep,
                keep_every=settings.checkpoint_keep_every,
                keep_best=settings.checkpoint_keep_best,
                metric=evaluation.basis(settings))) as checkpoints:
            state, frozen = first_state(settings, task.model, optimizer, base, abstract, frozen,
                                        checkpoints)
            return update(
                settings, loader.train_batches(rows), step, state, frozen, mesh, checkpoints,
                clock=speed.of_run(settings, task.model, task.examples, task.reading),
                draw=pictures.of_run(settings, graph, rows, task, mesh),
                score=score, trace=workdir / "profile" if profile else None)


def first_state(settings: RunSettings, model: LegionConfig,
                optimizer: optax.GradientTransformation, base: checkpoint.Checkpoint | None,
                abstract: TrainState, frozen: dict,
                checkpoints: RunCheckpoints) -> tuple[TrainState, dict]:
    """The state of the newest checkpoint, else of a run's begin, and its frozen parameters.

    `base` is of `setup.open_base`. Both are laid out as the abstract ones given. With a checkpoint,
    no parameter is made or read that it holds.
    """
    restored = checkpoints.restore(abstract.params, abstract.optimizer)
    if restored is None:
        params, frozen = setup.first_params(settings, model, base, abstract.params, frozen)
        begin = jax.jit(lambda p: init_state(p, optimizer), out_shardings=_layout(abstract))
        return begin(params), frozen
    step, params, opt_state = restored
    step, halted = jax.device_put((np.int32(step), np.bool_(False)),
                                  (abstract.step.sharding, abstract.halted.sharding))
    frozen = setup.frozen_params(base, frozen)
    return TrainState(step, params, opt_state, halted), frozen


def _layout(abstract: TrainState) -> TrainState:
    return jax.tree.map(lambda x: x.sharding, abstract)


def update(settings: RunSettings, batches: grain.MapDataset, step: Callable, state: TrainState,
           frozen: dict, mesh: jax.sharding.Mesh, checkpoints: RunCheckpoints, *,
           clock: speed.Speed, draw: pictures.Pictures | None,
           score: evaluation.Evaluation | None = None,
           trace: epath.Path | None) -> TrainState:
    """Update until `total_steps`; returns the final state.

    Metrics are fetched only when they are logged, so the devices never wait for the host.

    Args:
        batches: this host's rows of each batch, by step.
        score, trace: scores the run while it trains, folder for a trace; None: neither.

    Raises:
        Preempted: told to stop; the state is saved.
        TrainingError: a loss or gradient that is not finite, or a loss above config.stop_above;
            the state before that update is saved.
        ConfigError: too many records that cannot be used.
    """
    start, total = int(state.step), settings.optimizer.total_steps
    rows = loader.iterate(batches, start, threads=settings.data.threads,
                          workers=settings.data.workers, buffer=settings.data.buffer)
    with (distributed.Preemption() as preemption,
          contextlib.closing(
              _Metrics(settings, checkpoints, clock, draw, score, start)) as metrics,
          contextlib.closing(speed.Profile(trace, clock)) as profile):
        for number in range(start, total):
            batch = sharding.from_local_rows(mesh, next(rows), settings.batch_size)
            if clock.is_new(length := batch["ids"].shape[1]):
                _compile(step, state, frozen, batch, clock)
            profile.before(number, state)
            with jax.profiler.StepTraceAnnotation("update", step_num=number):
                state, values = step(state, frozen, batch)
            profile.after(number, state)
            clock.count(length)
            metrics.add(number, values)
            done = number + 1
            last = preemption.reached(done) or done == total
            scored = metrics.score(done, state.params, frozen)
            # Whatever a checkpoint knows of must be in the log before it, or a kill would lose it.
            if last or scored or 0 in (done % settings.log_every, done % settings.checkpoint_every):
                if (refused := metrics.flush()) is not None:
                    checkpoints.save(refused["step"], state.params, state.optimizer, force=True)
                    raise _halted(refused, settings.stop_above)
            checkpoints.save(done, state.params, state.optimizer, force=last, rank=metrics.rank)
            if last and done < total:
                LOG.info("stopped by SIGTERM after step %d; the same command goes on", done)
                raise distributed.Preempted
            metrics.show(done, state.params, frozen)
    return state


def _compile(step: Callable, state: TrainState, frozen: dict, batch: dict,
             clock: speed.Speed) -> None:
    """On all hosts before one of them calls it; the clock stands meanwhile."""
    with (clock.apart(state),
          memory.told(f"compiling an update of {batch['ids'].shape[1]} ids", LESS)):
        distributed.compile_together(step, state, frozen, batch)


def _halted(row: dict, limit: float) -> TrainingError:
    above = limit and row["loss"] > limit
    reason = f"the loss is above config.stop_above {limit:g}" if above else "not finite"
    terms = ", ".join(f"{name} {row[name]:g}" for name in losses.ALL)
    return TrainingError(
        f"step {row['step']}: loss {row['loss']:g} ({terms}), grad_norm "
        f"{row['grad_norm']:g}: {reason}. "
        f"Checkpoint {row['step']} is the state before this update; a run with other knobs can "
        f"start there (--config.init_from)")


class _Metrics:
    """Rows of metrics between two looks at them; all hosts look, one writes.

    Attributes:
        rank: of the run after the update that came last (`evaluation.rank`), where it was scored.
    """

    def __init__(self, settings: RunSettings, checkpoints: RunCheckpoints, clock: speed.Speed,
                 draw: pictures.Pictures | None, score: evaluation.Evaluation | None, start: int):
        self._settings, self._clock, self._pending = settings, clock, []
        self._draw, self._drawn = draw, False
        self._score, self._scores, self.rank = score, {}, None
        self._bad = train_data.BadRecords(settings.data.max_bad)
        self._log = None
        if jax.process_index() == 0:
            self._log = MetricsLog(checkpoints.directory.parent, start=start,
                                   total=settings.optimizer.total_steps)

    def add(self, number: int, values: dict[str, jax.Array]) -> None:
        """Keep the values of an update, and wait until at most AHEAD updates are not done.

        A host that is further ahead of its devices would hear of SIGTERM as many updates too late.
        """
        self._pending.append((number, values))
        if len(self._pending) > AHEAD:
            jax.block_until_ready(self._pending[-1 - AHEAD][1])

    def score(self, done: int, params: dict, frozen: dict) -> bool:
        """Score the run where that is due after `done` updates; all hosts take part."""
        self._scores, self.rank = {}, None
        if self._score is None or not self._score.due(done):
            return False
        with self._clock.apart(params):
            self._scores = self._score(params, frozen)
        self.rank = evaluation.rank(self._scores, self._settings.eval.metric)
        return True

    def flush(self) -> dict[str, float] | None:
        """Fetch and log what is there; returns the row of an update that was refused."""
        values = jax.device_get([values for _, values in self._pending])
        rows = [(number, {name: float(x) for name, x in row.items()})
                for (number, _), row in zip(self._pending, values, strict=True)]
        self._pending = []
        rates = self._clock.look([row["tokens"] for _, row in rows])
        halted = [i for i, (_, row) in enumerate(rows) if row["halted"]]
        if halted:
            rows = rows[:halted[0] + 1]
        else:
            rows[-1][1].update(evaluation.logged(self._scores))
        for _, row in rows:
            row.pop("halted")
        if self._log:
            self._log.write(rows, rates)
        for _, row in rows:
            self._bad.add(row["bad"], self._settings.batch_size)
        return {"step": rows[-1][0]} | rows[-1][1] if halted else None

    def show(self, done: int, params: dict, frozen: dict) -> None:
        """Draw pictures where they are due after `done` updates; all hosts take part."""
        if self._draw is None or done % self._settings.log_images_every:
            return
        # The first time compiles.
        with contextlib.nullcontext() if self._drawn else self._clock.apart(params):
            drawn = self._draw(params, frozen)
        self._drawn = True
        if self._log:
            self._log.add_pictures(done - 1, drawn)

    def close(self) -> None:
        if self._log:
            self._log.close()
