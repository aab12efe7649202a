"""Score a checkpoint on a prepared data set.

    python -m legion_jax.evaluate --checkpoint DIR --data_dir DIR --split test --output DIR

Writes OUTPUT/metrics.json, with the convention behind every number, OUTPUT/rows.jsonl with one line
per photo, and OUTPUT/report.html, which shows both. Run again after a stop it goes on where it was;
on several hosts (--distributed) each takes its share.
"""

from absl import flags

from input_pipeline import files, paths
from legion_jax import command, distributed
from legion_jax.evaluate import settings, teacher_forced, text_scores
from legion_jax.evaluate.intervals import RESAMPLES
from legion_jax.evaluate.run import (
    Scoring,
    Task,
    check_classes,
    check_rule,
    facts_of,
    open_data,
    run,
)
from legion_jax.evaluate.terminal import show
from legion_jax.predict.detector import open_detector
from legion_jax.predict.prediction import Question, define_dialogue_flag
from legion_jax.weights.checkpoint import Checkpoint, define_step_flag


def main() -> None:
    """Evaluate as the command line says."""
    _define_flags()
    hosts = distributed.define_flag()

    def on_this_host() -> None:
        with distributed.joined(hosts.value):
            if hosts.value:
                distributed.end_on_sigterm()
            evaluate(flags.FLAGS)

    command.run(on_this_host)


def _define_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    define_step_flag()
    flags.DEFINE_string("data_dir", None, "Folder written by tools.prepare_data.")
    flags.DEFINE_string("split", "test", "Split, a slice such as test[:100], several joined by +, "
                        "or all.")
    flags.DEFINE_string("output", None, "Folder for metrics.json and rows.jsonl.")
    flags.DEFINE_integer("batch_size", 8, "Photos per compiled call.", lower_bound=1)
    flags.DEFINE_string("robustness", "", "Damage to photos: all, or names such as jpeg,blur=5 "
                        "(see input_pipeline/photos/perturbations.py).")
    flags.DEFINE_string("css_model", "", "Sentence encoder for CSS: minilm, which is "
                        "all-MiniLM-L6-v2 without PyTorch, or for sentence-transformers a folder "
                        "or a name on the Hugging Face hub; empty: no CSS.")
    flags.DEFINE_integer("resamples", RESAMPLES, "Bootstrap resamples for the intervals; "
                         "0: none.", lower_bound=0)
    flags.DEFINE_integer("bootstrap_seed", 0, "Seed of the resamples.")
    flags.DEFINE_string("compat", "", "legion, fakevlm, sida: the conventions of that system's own "
                        "evaluation; empty: the project's.")
    define_dialogue_flag()
    flags.DEFINE_bool("int8", False, "Hold the language model's kernels in int8.")
    flags.mark_flags_as_required(["checkpoint", "data_dir", "output"])


def evaluate(asked: flags.FlagValues) -> None:
    """Evaluate as the flags `asked` say, on this host."""
    counting = settings.compatible(asked.compat)
    damage = settings.parse_robustness(asked.robustness, compat=asked.compat)
    if asked.compat:
        print(settings.explain(asked.compat))
    encode = text_scores.encoder(asked.css_model) if asked.css_model else None
    checkpoint = Checkpoint.open_together(asked.checkpoint, asked.step)
    check_rule(checkpoint, counting)
    data = open_data(asked.data_dir, asked.split)
    check_classes(checkpoint, data)
    question = Question.of(checkpoint.meta, asked.dialogue)
    if counting.teacher_forced:
        teacher_forced.check(checkpoint, question)
    facts = facts_of(checkpoint, data, question=question, int8=asked.int8)
    output = paths.folder(asked.output, "--output")
    files.make_folder(output)
    task = Task(data.source, facts, lambda: open_detector(
        checkpoint, batch_size=asked.batch_size, question=question, int8=asked.int8),
        data.unlike_published)
    scoring = Scoring(counting, encode, asked.css_model, asked.resamples, asked.bootstrap_seed)
    result = run(task, output, scoring, folder=asked.checkpoint, damage=damage)
    if result is not None:
        show(result)


if __name__ == "__main__":
    main()
