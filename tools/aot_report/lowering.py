"""The programs of a run, lowered for devices that are not there: shapes in place of data."""

import dataclasses
from collections.abc import Sequence

import jax
import ml_collections

from input_pipeline.batches import examples
from input_pipeline.batches.examples import ExampleSpec
from input_pipeline.errors import UserError
from input_pipeline.text.tokenizer import EOS_ID
from legion_jax import sharding
from legion_jax.config import TINY, LegionConfig, tiny
from legion_jax.models.flops import Flops, Sizes, answering
from legion_jax.models.reading import Reading
from legion_jax.predict.decoding import Rules, Watched
from legion_jax.predict.programs import Answering, Programs, abstract_params
from legion_jax.train import data as train_data, frozen_features, optim, setup
from legion_jax.train.knobs import ConfigError, RunSettings
from legion_jax.train.speed import photo_flops

# {dialogue: ids of its own question in LLaMA's tokens, index of the image among them}; the answer
# and its training targets follow.
PROMPTS = {"legion": (164, 36), "llava15_chat": (22, 5), "raw": (11, 1), "sida": (75, 35),
           "sida_described": (78, 35), "lisa": (60, 35)}


@dataclasses.dataclass(frozen=True)
class Program:
    """One program, not yet compiled.

    Attributes:
        name: train or decode; batch: photos it works on.
        model_flops, executed_flops: of one chip in one run of the program (see `flops`).
        answer_tokens: tokens it writes per photo; 0 in training.
    """

    name: str
    lowered: jax.stages.Lowered
    batch: int
    model_flops: float
    executed_flops: float
    answer_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Run:
    """What settings say of shapes, without the files they name."""

    settings: RunSettings
    model: LegionConfig
    examples: ExampleSpec

    @property
    def watched(self) -> dict[str, int]:
        """Ids of the watched tokens: any do, as no shape depends on them."""
        return {name: number for number, name in enumerate(self.model.watched, EOS_ID + 1)}

    @property
    def prompt_ids(self) -> int:
        """Ids of the published question."""
        return PROMPTS[self.examples.dialogue.name][0]

    @property
    def image_index(self) -> int:
        """Where among them the image stands."""
        return PROMPTS[self.examples.dialogue.name][1]


def read_run(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> Run:
    """Shapes of a run on a mesh. Raises ConfigError for what no run could use."""
    settings = RunSettings.from_config(config, without_data=True)
    settings.check_batch(mesh.shape["data"] * mesh.shape["fsdp"])
    data = settings.data
    known = data.tokenizer or settings.init_from or settings.model.name not in TINY
    vocab = None if known else tiny().language.vocab
    model = setup.model_config(settings, setup.vocabulary(settings, vocab))
    run = Run(settings, model, setup.example_spec(data, model))
    if data.text_length <= run.image_index + 1:
        raise ConfigError(f"config.data.text_length: the image alone stands at "
                          f"{run.image_index}, got {data.text_length}")
    return run


def make_mesh(text: str, devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """`1,16,1` as sizes of the mesh axes over devices. Raises UserError naming the flag."""
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--mesh: whole numbers for {', '.join(sharding.AXES)}, not "
                        f"{text!r}") from None
    try:
        return sharding.make_mesh(sizes, devices)
    except sharding.MeshError as error:
        raise UserError(f"--mesh {text}: {error}") from error


def batch_arrays(run: Run, mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The abstract batch of one update."""
    spec, model = run.examples, run.model
    rows = examples.fields(spec)
    for name in train_data.cached_towers(run.settings, model, spec):
        tower = frozen_features.TOWERS[name]
        del rows[tower.image]
        rows[tower.features] = (frozen_features.row_shape(model, name), model.dtype)
    return {name: jax.ShapeDtypeStruct((run.settings.batch_size, *shape), dtype,
                                       sharding=sharding.batch_sharding(mesh))
            for name, (shape, dtype) in rows.items()}


def lower_train(run: Run, mesh: jax.sharding.Mesh) -> Program:
    """The update of `legion_jax.train`."""
    settings = run.settings
    optimizer = optim.make(settings.optimizer)
    # Outside `set_mesh`: optax makes its counters at once, which only real devices can.
    graph, state, frozen = setup.abstract_state(
        run.model, optimizer, mesh, trainable=settings.stored,
        frozen_dtype=settings.frozen_dtype)
    layout = jax.tree.map(lambda x: x.sharding, state)
    reading = Reading(run.image_index, run.watched,
                      train_data.first_target(settings.data, run.prompt_ids))
    step = setup.jit_step(settings, graph, optimizer, layout, reading=reading)
    with jax.set_mesh(mesh):
        lowered = step.lower(state, frozen, batch_arrays(run, mesh))
    each = photo_flops(settings, run.model, run.examples, reading,
                       text=run.examples.text_length)
    return _program("train", lowered, settings.batch_size, each, mesh.size)


def lower_decode(run: Run, mesh: jax.sharding.Mesh) -> Program:
    """The decoding loop of `predict.predictor` for a full batch, to the last possible token."""
    batch, new = run.settings.eval.batch_size, run.settings.eval.max_new_tokens
    watched = tuple(Watched(name, number, run.settings.data.mask_slots)
                    for name, number in run.watched.items())
    programs = Programs(run.model, Answering((0,) * run.prompt_ids, run.image_index, Rules(
        new, EOS_ID, watched)), mesh, places=batch)
    with jax.set_mesh(mesh):
        lowered = programs.decode.lower(abstract_params(run.model, mesh), programs.state,
                                        jax.ShapeDtypeStruct((), "int32"))
    _, token = answering(run.model, Sizes(run.prompt_ids, run.image_index, 0, 0), new=new)
    # Where rows do not divide over the devices, several decode the same ones.
    rows = programs.state.done
    copies = mesh.shape["data"] * mesh.shape["fsdp"] * rows.sharding.shard_shape(
        rows.shape)[0] // batch
    return dataclasses.replace(
        _program("decode", lowered, batch, Flops(new * token, new * token * copies), mesh.size),
        answer_tokens=new)


def _program(name: str, lowered, batch: int, each: Flops, chips: int) -> Program:
    return Program(name, lowered, batch, batch * each.model / chips, batch * each.executed / chips)
