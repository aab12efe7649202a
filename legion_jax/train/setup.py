"""Train LEGION: `python -m legion_jax.train --config experiments/RUN.py --workdir DIR`.

Reads top to bottom: devices, tokenizer and shapes, parameters, data, steps. A run that was killed
continues from its newest checkpoint and logs what an unbroken one would have logged.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable

import jax
import ml_collections
import optax
from absl import flags
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_flags

from input_pipeline.batches import loader
from input_pipeline.batches.examples import ExampleSpec
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import command, distributed, sharding
from legion_jax import config as config_lib
from legion_jax.config import LegionConfig, LoraConfig
from legion_jax.models import param_tree
from legion_jax.train import (
    data as train_data,
)
from legion_jax.train import knobs as knobs_lib
from legion_jax.train import (
    losses,
    metrics_log,
    optim,
    pictures,
    profiling,
    run,
    speed,
)
from legion_jax.train.step import TrainState, init_state, make_step
from legion_jax.weights import checkpoint, run_checkpoints

LOG = logging.getLogger("legion_jax")


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run's config means once its files have been read."""

    model: LegionConfig
    tokenizer: Tokenizer
    examples: ExampleSpec
    image_index: int
    first_target: int  # id before which none is learned


def read_task(config: ml_collections.ConfigDict) -> Task:
    """Tokenizer, architecture and example shapes of a run. Raises ValueError on a misfit."""
    folder = config.data.tokenizer or (config.init_from and f"{config.init_from}/tokenizer")
    if not folder:
        raise knobs_lib.ConfigError("data.tokenizer: needed when init_from is empty")
    tokenizer = Tokenizer.from_folder(folder)
    model = model_config(config, tokenizer.vocab_size)
    if config.loss.verdict and not model.verdict_classes:
        raise knobs_lib.ConfigError(f"config.loss.verdict: {config.loss.verdict}, but the model "
                                    f"has no verdict head")
    prompt = conversation.encode_prompt(tokenizer, config.data.instruction)
    if len(prompt) >= config.data.text_length:
        raise knobs_lib.ConfigError(f"data.text_length: the prompt alone takes {len(prompt)} ids, "
                                    f"got {config.data.text_length}")
    return Task(model, tokenizer, example_spec(config, model), conversation.image_index(prompt),
                train_data.first_target(config, len(prompt)))


def example_spec(config: ml_collections.ConfigDict, model: LegionConfig) -> ExampleSpec:
    """What a run makes of a record: shapes, question, and how training decodes."""
    return ExampleSpec(
        clip_size=model.clip.image_size, sam_canvas=model.sam.image_size,
        sam_longest=config.data.sam_longest or model.sam.image_size,
        text_length=config.data.text_length, mask_slots=config.data.mask_slots,
        mask_canvas=config.data.mask_canvas, instruction=config.data.instruction,
        own_questions=config.data.own_questions, reduced_decoding=config.data.reduced_decoding)


def model_config(config: ml_collections.ConfigDict, vocab: int) -> LegionConfig:
    """Architecture of a run: the checkpoint's, or a named size for training from scratch."""
    knobs = config.model
    sizes = {"legion_7b": config_lib.legion_7b, "tiny": lambda: config_lib.tiny(vocab)}
    if config.init_from:
        model = checkpoint.read_meta(config.init_from)["config"]
    elif knobs.name in sizes:
        model = sizes[knobs.name]()
    else:
        raise knobs_lib.ConfigError(f"model.name: {', '.join(sizes)}, not {knobs.name!r}")
    if vocab != model.language.vocab:
        raise knobs_lib.ConfigError(f"data.tokenizer: {vocab} tokens, the model has "
                                    f"{model.language.vocab}")
    return dataclasses.replace(
        model, dtype=knobs.dtype, position_dtype=knobs.position_dtype, remat=knobs.remat,
        lora=LoraConfig(knobs.lora_rank, knobs.lora_alpha, knobs.lora_dropout))


def abstract_state(config, model: LegionConfig, optimizer, mesh):
    """Graph, and the abstract, sharded train state and frozen tree of a run."""
    graph, params, frozen = param_tree.split_params(
        param_tree.abstract_model(model), config.trainable)
    params = sharding.shard_abstract(param_tree.cast(params, "float32"), mesh)
    frozen = sharding.shard_abstract(param_tree.cast(frozen, config.frozen_dtype), mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    layout = optax.tree_utils.tree_map_params(
        optimizer, lambda _, p: p.sharding, jax.eval_shape(optimizer.init, params), params,
        transform_non_params=lambda _: everywhere)
    state = jax.eval_shape(lambda p: init_state(p, optimizer), params)
    layout = TrainState(everywhere, jax.tree.map(lambda p: p.sharding, params), layout, everywhere)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                         state, layout)
    return graph, state, frozen


def jit_step(config, graph, optimizer, layout: TrainState, *, image_index: int,
             first_target: int, seg_id: int) -> Callable:
    """`step(state, frozen, batch) -> (state, metrics)` of a run; the state is donated."""
    return jax.jit(
        make_step(graph, optimizer, optim.schedule(config.optimizer),
                  weights=losses.Terms(**config.loss), image_index=image_index, seg_id=seg_id,
                  first_target=first_target, accumulation=config.accumulation, seed=config.seed,
                  stop_above=config.stop_above or math.inf),
        donate_argnums=0, out_shardings=(layout, None))


def first_params(config, model: LegionConfig, params: dict, frozen: dict) -> tuple[dict, dict]:
    """Parameters a fresh run starts from: the base checkpoint's, random where it has none.

    Raises CheckpointError when a frozen parameter is not in the base.
    """
    wanted, kept = param_tree.flatten(params), param_tree.flatten(frozen)
    known = set(checkpoint.stored(config.init_from)) if config.init_from else set()
    if lost := sorted(known - wanted.keys() - kept.keys()):
        raise checkpoint.CheckpointError(
            f"{lost[0]}: in {config.init_from}, not in the model, so it would be lost; "
            f"{len(lost)} such parameters (see model.lora_rank)")
    if homeless := sorted(kept.keys() - known):
        source = config.init_from or "init_from is empty"
        raise checkpoint.CheckpointError(
            f"{homeless[0]}: frozen, but there is nothing to take it from ({source}); "
            f"{len(homeless)} such parameters")
    loaded = checkpoint.load_some(
        config.init_from, {p: a for p, a in (wanted | kept).items() if p in known}) if known else {}
    fresh = {p: a for p, a in wanted.items() if p not in known}

    def init(key):
        everything = param_tree.flatten(param_tree.new_params(model, key))
        return {p: everything[p].astype(a.dtype) for p, a in fresh.items()}

    shardings = {p: a.sharding for p, a in fresh.items()}
    made = jax.jit(init, out_shardings=shardings)(jax.random.key(config.seed)) if fresh else {}
    return (param_tree.unflatten({p: (loaded | made)[p] for p in wanted}),
            param_tree.unflatten({p: loaded[p] for p in kept}))


def write_run_files(config, task: Task, params: dict, workdir: epath.Path) -> None:
    """Make the work directory loadable on its own: architecture, question, tokenizer, config.

    Raises ConfigError when the directory belongs to a run with another config.
    """
    text = json.loads(config.to_json())
    path = workdir / "config.json"
    started = checkpoint.latest_step(workdir) is not None
    if started and path.exists() and (changed := knobs_lib.differences(
            knobs_lib.lasting(json.loads(path.read_text())), knobs_lib.lasting(text))):
        raise knobs_lib.ConfigError(f"{workdir}: belongs to a run with another config: {changed}")
    workdir.mkdir(parents=True, exist_ok=True)
    base = checkpoint.base_of(config.init_from) if config.init_from else None
    checkpoint.write_meta(
        workdir, task.model, base=base, trained=sorted(param_tree.flatten(params)),
        question={"instruction": config.data.instruction,
                  "sam_longest": task.examples.sam_longest,
                  "max_new_tokens": config.eval.max_new_tokens,
                  "mask_slots": config.data.mask_slots})
    task.tokenizer.save(workdir / "tokenizer")
    metrics_log.write_json(path, text)


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
    knobs_lib.check_values(config, batch_shards=mesh.shape["data"] * mesh.shape["fsdp"])
    task = read_task(config)
    rows = train_data.open_rows(config, task.tokenizer, task.examples, task.model,
                                sharding.local_rows(mesh, config.batch_size))
    data = loader.train_batches(rows)
    optimizer = optim.make(config.optimizer)
    with jax.set_mesh(mesh):
        graph, abstract, frozen = abstract_state(config, task.model, optimizer, mesh)
        params, frozen = first_params(config, task.model, abstract.params, frozen)
        if jax.process_index() == 0:
            write_run_files(config, task, abstract.params, workdir)
        layout = jax.tree.map(lambda x: x.sharding, abstract)
        state = jax.jit(lambda p: init_state(p, optimizer), out_shardings=layout)(params)
        LOG.info("%s trainable, %s frozen parameters on %d devices",
                 f"{param_tree.count(state.params):,}", f"{param_tree.count(frozen):,}",
                 mesh.size)
        where = {"image_index": task.image_index, "first_target": task.first_target}
        step = jit_step(config, graph, optimizer, layout, seg_id=task.tokenizer.seg_id, **where)
        checkpoints = run_checkpoints.RunCheckpoints(
            workdir, every=config.checkpoint_every, keep=config.checkpoint_keep,
            keep_every=config.checkpoint_keep_every, keep_best=config.checkpoint_keep_best)
        try:
            if restored := checkpoints.restore(abstract.params, abstract.optimizer):
                number, params, opt_state = restored
                number = jax.device_put(number, layout.step).astype("int32")
                state = state.replace(step=number, params=params, optimizer=opt_state)
            with distributed.Preemption() as stop:
                return run.run(
                    config, data, step, state, frozen, mesh, checkpoints, stop,
                    speed=speed.of_run(config, task.model, task.examples, **where),
                    pictures=pictures.of_run(config, graph, rows, task.tokenizer, mesh,
                                             image_index=task.image_index),
                    profile=profiling.Profile(workdir / "profile" if profile else None))
        finally:
            checkpoints.close()


if __name__ == "__main__":
    CONFIG = config_flags.DEFINE_config_file("config", None, "File with get_config().")
    WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and logs go.")
    PROFILE = flags.DEFINE_boolean("profile", False, "Trace a few updates for XProf.")
    DISTRIBUTED = distributed.define_flag()

    def main() -> None:
        with distributed.joined(DISTRIBUTED.value):
            train(knobs_lib.check(CONFIG.value), WORKDIR.value, profile=PROFILE.value)

    flags.mark_flags_as_required(["config", "workdir"])
    command.run(main)
