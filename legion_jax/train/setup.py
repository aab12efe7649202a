"""The parts of a run, made from its settings: shapes, parameters, their layout, the jitted step."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence

import jax
import optax
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from input_pipeline import files, paths
from input_pipeline.batches.examples import ExampleSpec
from input_pipeline.errors import UserError
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import config as architecture, sharding
from legion_jax.config import CLS_TOKEN, SEG_TOKEN, TOKEN, LegionConfig, LoraConfig
from legion_jax.models import param_tree, tower_views
from legion_jax.models.reading import Reading
from legion_jax.train import data as train_data, knobs, losses, optim
from legion_jax.train.knobs import ConfigError, DataSettings, RunSettings
from legion_jax.train.step import TrainState, init_state, make_step
from legion_jax.weights import checkpoint, legion_json
from legion_jax.weights.checkpoint_error import read_json


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run's settings mean once its files have been read."""

    model: LegionConfig
    tokenizer: Tokenizer
    examples: ExampleSpec
    reading: Reading


def read_task(settings: RunSettings) -> Task:
    """Tokenizer, architecture and example shapes of a run. Raises ConfigError on a misfit."""
    data = settings.data
    folder = data.tokenizer or (settings.init_from and f"{settings.init_from}/tokenizer")
    if not folder:
        raise ConfigError("data.tokenizer: needed when init_from is empty")
    dialogue = data.spoken
    tokenizer = dialogue.open_tokenizer(folder)
    model = model_config(settings, tokenizer.vocab_size)
    _check_losses(settings, model)
    _check_dialogue(settings, model)
    prompt = conversation.encode_prompt(tokenizer, data.question, dialogue=dialogue)
    if len(prompt) >= data.text_length:
        raise ConfigError(f"data.text_length: the prompt alone takes {len(prompt)} ids, "
                          f"got {data.text_length}")
    # The one id that stands for the photo becomes as many positions as there are patches.
    positions = data.text_length - 1 + model.vision.num_patches
    if positions > model.language.max_positions:
        raise ConfigError(f"config.data.text_length: {data.text_length} ids and a photo take "
                          f"{positions} positions, the language model has "
                          f"{model.language.max_positions}")
    return Task(model, tokenizer, example_spec(data, model), Reading(
        conversation.image_index(prompt), tokenizer.ids_of(model.watched),
        train_data.first_target(data, len(prompt))))


def _check_losses(settings: RunSettings, model: LegionConfig) -> None:
    """Raises ConfigError for a loss on a part that the model does not have."""
    if settings.loss.verdict and (model.verdict is None or not model.verdict.has_head):
        raise ConfigError(f"config.loss.verdict: {settings.loss.verdict}, but the model "
                          f"has no verdict head")
    if settings.loss.reads_masks and model.sam is None:
        raise ConfigError(f"config.loss: bce {settings.loss.bce}, dice {settings.loss.dice}, but "
                          f"the model draws no masks (it has no SAM)")


def _check_dialogue(settings: RunSettings, model: LegionConfig) -> None:
    """Raises ConfigError for a loss on what no answer of the dialogue has."""
    dialogue, loss = settings.data.spoken, settings.loss
    if dialogue.answer is None:
        raise ConfigError(f"config.data.dialogue: {dialogue.name} only asks, it has no form for "
                          f"answers to learn")
    for term, token, wanted in (
            ("verdict", CLS_TOKEN, bool(loss.verdict) and model.verdict_source == TOKEN),
            ("bce and dice", SEG_TOKEN, loss.reads_masks)):
        if wanted and not dialogue.says(token):
            raise ConfigError(f"config.loss: {term} above 0, but no answer of the dialogue "
                              f"{dialogue.name} has the {token} that the model needs for it")
    if loss.ce and not (dialogue.described or settings.data.learn_labels):
        raise ConfigError(f"config.loss.ce: {loss.ce}, but the answers of the dialogue "
                          f"{dialogue.name} hold no captions to learn; config.data.learn_labels "
                          f"learns them as they are")


def example_spec(data: DataSettings, model: LegionConfig) -> ExampleSpec:
    """What a run makes of a record: shapes, question, and how training decodes."""
    return ExampleSpec(
        vision=tower_views.of_vision(model), sam=tower_views.of_sam(model, data.sam_longest),
        dialogue=data.spoken, text_length=data.text_length, mask_slots=data.mask_slots,
        mask_canvas=data.mask_canvas, instruction=data.question,
        own_questions=data.own_questions, learn_labels=data.learn_labels,
        soft_masks=data.soft_masks, reduced_decoding=data.reduced_decoding)


def model_config(settings: RunSettings, vocab: int) -> LegionConfig:
    """Architecture of a run: the checkpoint's, or a named size for training from scratch.

    Raises ConfigError where the vocabulary is not of `vocab` tokens. Only the model of a fast
    tokenizer may have more rows: a LLaVA's say nothing, but are scored.
    """
    sizing = settings.model
    if settings.init_from:
        model = checkpoint.read_meta(settings.init_from).config
    else:
        model = architecture.named(sizing.name, vocab, "config.model.name")
    rules = settings.data.spoken.rules
    if vocab > model.language.vocab or (vocab < model.language.vocab and rules == "slow"):
        raise ConfigError(f"data.tokenizer: {vocab} tokens, the model has "
                          f"{model.language.vocab}")
    return dataclasses.replace(
        model, dtype=sizing.dtype, position_dtype=sizing.position_dtype, remat=sizing.remat,
        lora=LoraConfig(sizing.lora_rank, sizing.lora_alpha, sizing.lora_dropout,
                        sizing.lora_targets))


def abstract_state(model: LegionConfig, optimizer: optax.GradientTransformation,
                   mesh: jax.sharding.Mesh, *, trainable: Sequence[str], frozen_dtype: str):
    """Graph of the model, abstract train state and abstract frozen tree, sharded over the mesh.

    Raises PartitionError for a pattern of `trainable` that matches no parameter.
    """
    graph, params, frozen = param_tree.split_params(param_tree.abstract_model(model), trainable)
    params = sharding.shard_abstract(param_tree.cast(params, "float32"), mesh)
    frozen = sharding.shard_abstract(param_tree.cast(frozen, frozen_dtype), mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    layout = optax.tree_utils.tree_map_params(
        optimizer, lambda _, p: p.sharding, jax.eval_shape(optimizer.init, params), params,
        transform_non_params=lambda _: everywhere)
    state = jax.eval_shape(lambda p: init_state(p, optimizer), params)
    layout = TrainState(everywhere, jax.tree.map(lambda p: p.sharding, params), layout, everywhere)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                         state, layout)
    return graph, state, frozen


def jit_step(settings: RunSettings, graph, optimizer, layout: TrainState, *,
             reading: Reading) -> Callable:
    """`step(state, frozen, batch) -> (state, metrics)` of a run; the state is donated."""
    return jax.jit(
        make_step(graph, optimizer, optim.schedule(settings.optimizer),
                  objective=losses.Objective(settings.loss_weights, reading,
                                             settings.compat.nan_without_text),
                  accumulation=settings.accumulation, seed=settings.seed,
                  stop_above=settings.stop_above or math.inf,
                  is_held=settings.is_held if settings.compat.fresh_heads else None),
        donate_argnums=0, out_shardings=(layout, None))


def first_params(settings: RunSettings, model: LegionConfig, base: checkpoint.Checkpoint | None,
                 params: dict, frozen: dict) -> tuple[dict, dict]:
    """Parameters a fresh run starts from: the base checkpoint's, random where it has none.

    Args:
        base: of `open_base`.
        params, frozen: abstract trees, sharded.
    """
    trained, fixed = param_tree.flatten(params), param_tree.flatten(frozen)
    stored = {p for p in base.stored if not settings.is_fresh(p)} if base else set()
    loaded = base.load_some(
        {p: a for p, a in (trained | fixed).items() if p in stored}) if base else {}
    fresh = {p: a for p, a in trained.items() if p not in stored}

    def init(key):
        values = param_tree.new_params(model, key, fresh)
        return {p: values[p].astype(a.dtype) for p, a in fresh.items()}

    shardings = {p: a.sharding for p, a in fresh.items()}
    if fresh:
        loaded |= jax.jit(init, out_shardings=shardings)(jax.random.key(settings.seed))
    return (param_tree.unflatten({p: loaded[p] for p in trained}),
            param_tree.unflatten({p: loaded[p] for p in fixed}))


def frozen_params(base: checkpoint.Checkpoint | None, frozen: dict) -> dict:
    """The frozen ones alone, from the base; the arguments are of `first_params`."""
    return param_tree.unflatten(base.load_some(param_tree.flatten(frozen)) if base else {})


def open_base(settings: RunSettings, params: dict, frozen: dict) -> checkpoint.Checkpoint | None:
    """The checkpoint that a run starts from; None for one from scratch.

    Args:
        params, frozen: abstract trees.

    Raises CheckpointError when a frozen parameter is not in it, or the model has none for one that
    is.
    """
    init_from = settings.init_from
    trained, fixed = param_tree.flatten(params), param_tree.flatten(frozen)
    base = checkpoint.Checkpoint.open(init_from) if init_from else None
    stored = set(base.stored) if base else set()
    if lost := sorted(stored - trained.keys() - fixed.keys()):
        raise checkpoint.CheckpointError(
            f"{lost[0]}: in {init_from}, not in the model, so it would be lost; "
            f"{len(lost)} such parameters (see model.lora_rank)")
    if homeless := sorted(fixed.keys() - stored):
        source = init_from or "init_from is empty"
        raise checkpoint.CheckpointError(
            f"{homeless[0]}: frozen, but there is nothing to take it from ({source}); "
            f"{len(homeless)} such parameters")
    return base


def write_run_files(settings: RunSettings, task: Task, params: dict, workdir: epath.Path) -> None:
    """Make the work directory loadable on its own: architecture, question, tokenizer, config.

    Raises ConfigError when the directory belongs to a run with another config.
    """
    config = settings.as_dict()
    path = workdir / "config.json"
    started = checkpoint.latest_step(workdir) is not None
    if started and path.exists() and (changed := knobs.differences(
            knobs.lasting(read_json(path)), knobs.lasting(config))):
        raise ConfigError(f"{workdir}: belongs to a run with another config: {changed}")
    files.make_folder(workdir)
    base = checkpoint.base_of(settings.init_from) if settings.init_from else None
    fields = {"base": base, "trained": sorted(param_tree.flatten(params))}
    # A run begun before there was this field stays without: its results name its legion.json.
    if not (started and (workdir / legion_json.META).exists()
            and not checkpoint.Checkpoint.open(workdir).meta.run):
        fields["run"] = hashlib.sha256(
            json.dumps(knobs.lasting(config), sort_keys=True).encode()).hexdigest()
    legion_json.write_meta(
        workdir, task.model, dialogue=settings.data.dialogue, **fields,
        question={"instruction": settings.data.question,
                  "sam_longest": task.examples.sam_longest,
                  "max_new_tokens": settings.eval.max_new_tokens,
                  "mask_slots": settings.data.mask_slots})
    task.tokenizer.save(workdir / "tokenizer")
    files.write_json(path, config)


def vocabulary(settings: RunSettings, given: int | None) -> int:
    """Tokens of a run whose tokenizer need not be there yet.

    Its tokenizer's, else those of the checkpoint it starts from or of a fixed size, else `given`.
    Raises UserError where none of them is known, or `given` is another number.
    """
    folder = settings.data.tokenizer
    if folder and paths.find(folder, "config.data.tokenizer").exists():
        tokens = settings.data.spoken.open_tokenizer(folder).vocab_size
        owner = f"tokenizer {folder}"
    elif settings.init_from:
        tokens = checkpoint.read_meta(settings.init_from).config.language.vocab
        owner = f"config.init_from {settings.init_from}"
    elif settings.model.name in architecture.PUBLISHED:
        tokens = architecture.PUBLISHED[settings.model.name]().language.vocab
        owner = f"config.model.name {settings.model.name}"
    elif given:
        return given
    else:
        reason = f"{folder} is not there" if folder else "is empty"
        raise UserError(f"--vocab: needed to know the size of the vocabulary, because "
                        f"config.data.tokenizer {reason}")
    if given not in (None, tokens):
        raise UserError(f"--vocab {given}: {owner} has {tokens} tokens")
    return tokens
