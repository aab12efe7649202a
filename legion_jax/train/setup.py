"""The parts of a run, made from its config: shapes, parameters, their layout, the jitted step."""

import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Callable

import jax
import ml_collections
import optax
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from input_pipeline import files
from input_pipeline.batches.examples import ExampleSpec
from input_pipeline.errors import UserError
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import config as config_lib, sharding
from legion_jax.config import LegionConfig, LoraConfig
from legion_jax.models import param_tree
from legion_jax.train import (
    data as train_data,
    knobs,
    losses,
    optim,
)
from legion_jax.train.step import TrainState, init_state, make_step
from legion_jax.weights import checkpoint, legion_json

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
        raise knobs.ConfigError("data.tokenizer: needed when init_from is empty")
    tokenizer = Tokenizer.from_folder(folder)
    model = model_config(config, tokenizer.vocab_size)
    if config.loss.verdict and not model.verdict_classes:
        raise knobs.ConfigError(f"config.loss.verdict: {config.loss.verdict}, but the model "
                                f"has no verdict head")
    prompt = conversation.encode_prompt(tokenizer, config.data.instruction)
    if len(prompt) >= config.data.text_length:
        raise knobs.ConfigError(f"data.text_length: the prompt alone takes {len(prompt)} ids, "
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
    sizing = config.model
    sizes = {"legion_7b": config_lib.legion_7b, "tiny": lambda: config_lib.tiny(vocab)}
    if config.init_from:
        model = checkpoint.read_meta(config.init_from).config
    elif sizing.name in sizes:
        model = sizes[sizing.name]()
    else:
        raise knobs.ConfigError(f"model.name: {', '.join(sizes)}, not {sizing.name!r}")
    if vocab != model.language.vocab:
        raise knobs.ConfigError(f"data.tokenizer: {vocab} tokens, the model has "
                                f"{model.language.vocab}")
    return dataclasses.replace(
        model, dtype=sizing.dtype, position_dtype=sizing.position_dtype, remat=sizing.remat,
        lora=LoraConfig(sizing.lora_rank, sizing.lora_alpha, sizing.lora_dropout))


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
    base = checkpoint.Checkpoint.open(config.init_from) if config.init_from else None
    known = set(base.stored) if base else set()
    if lost := sorted(known - wanted.keys() - kept.keys()):
        raise checkpoint.CheckpointError(
            f"{lost[0]}: in {config.init_from}, not in the model, so it would be lost; "
            f"{len(lost)} such parameters (see model.lora_rank)")
    if homeless := sorted(kept.keys() - known):
        source = config.init_from or "init_from is empty"
        raise checkpoint.CheckpointError(
            f"{homeless[0]}: frozen, but there is nothing to take it from ({source}); "
            f"{len(homeless)} such parameters")
    loaded = base.load_some(
        {p: a for p, a in (wanted | kept).items() if p in known}) if base else {}
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
    if started and path.exists() and (changed := knobs.differences(
            knobs.lasting(json.loads(path.read_text())), knobs.lasting(text))):
        raise knobs.ConfigError(f"{workdir}: belongs to a run with another config: {changed}")
    workdir.mkdir(parents=True, exist_ok=True)
    base = checkpoint.base_of(config.init_from) if config.init_from else None
    legion_json.write_meta(
        workdir, task.model, base=base, trained=sorted(param_tree.flatten(params)),
        question={"instruction": config.data.instruction,
                  "sam_longest": task.examples.sam_longest,
                  "max_new_tokens": config.eval.max_new_tokens,
                  "mask_slots": config.data.mask_slots})
    task.tokenizer.save(workdir / "tokenizer")
    files.write_json(path, text)


def vocabulary(run: ml_collections.ConfigDict, given: int | None) -> int:
    """Tokens of a run: its tokenizer's, else the given number, else those of a fixed size."""
    folder = run.data.tokenizer
    if folder and pathlib.Path(folder).exists():
        found, owner = Tokenizer.from_folder(folder).vocab_size, f"tokenizer {folder}"
    elif run.init_from:
        found = checkpoint.read_meta(run.init_from).config.language.vocab
        owner = f"config.init_from {run.init_from}"
    elif run.model.name == "legion_7b":
        found, owner = config_lib.legion_7b().language.vocab, "config.model.name legion_7b"
    elif given:
        return given
    else:
        reason = f"{folder} is not there" if folder else "is empty"
        raise UserError(f"--vocab: needed to know the size of the vocabulary, because "
                        f"config.data.tokenizer {reason}")
    if given not in (None, found):
        raise UserError(f"--vocab {given}: {owner} has {found} tokens")
    return found
