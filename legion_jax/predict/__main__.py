"""Verdict, explanation and masks for photos: one, a folder, or a million of them.

    python -m legion_jax.predict --checkpoint DIR --images SOURCE --output DIR

SOURCE is a photo, a folder, @LIST (a file with a path or URI per line) or a quoted pattern such as
'photos/*.jpg'; `--data_dir DIR --split test` takes the images of a prepared data set instead.

OUTPUT/results.jsonl has a line per photo (verdict, probability, explanation, and per artifact
phrase, text span, COCO RLE and score) and OUTPUT/failures.jsonl one per photo that was left out,
both in the order of the source. Beside them every photo gets NAME.json, NAME_mask.png (union of all
masks at the photo's size, 255 where an artifact is) and NAME_overlay.png; --write chooses among
these, and --write= leaves them all out, as a large job will.

The same command goes on where an earlier one was stopped. Exit codes: 0; 2 where photos were left
out; 1 for errors; 143 after SIGTERM, which lets photos in flight be finished.
"""

import re
import sys
import warnings

import jax
from absl import flags

from input_pipeline import paths
from input_pipeline.errors import UserError
from input_pipeline.photos import images
from legion_jax import command, distributed
from legion_jax.predict import photo_sources, result_files
from legion_jax.predict.detector import open_detector
from legion_jax.predict.job import BatchJob, Options
from legion_jax.predict.job_lines import Share
from legion_jax.predict.prediction import EXPLAIN, Question, define_dialogue_flag
from legion_jax.predict.queues import Limits
from legion_jax.predict.sampling import Sampling
from legion_jax.weights.checkpoint import Checkpoint, define_step_flag

LEFT_OUT_SOME = 2
MANY = 10_000  # photos, from which on files for each of them are worth a word


def _named_source(images_flag: str | None, data_dir: str | None,
                  split: str) -> photo_sources.Source:
    """The one source that is named. Raises UserError."""
    if bool(images_flag) == bool(data_dir):
        raise UserError("name the photos either with --images or with --data_dir")
    source = (photo_sources.RecordSource(data_dir, split) if data_dir
              else photo_sources.open_source(images_flag))
    if source.repeated:
        print(f"{images_flag}: {source.repeated} lines repeat others; each photo is taken once",
              file=sys.stderr)
    return source


def _share(shard: str, hosts: str) -> Share:
    """This process's share of the photos; with `hosts` it has joined the others. Raises UserError.
    """
    if hosts:
        return Share(jax.process_index(), jax.process_count())
    match = re.fullmatch(r"(\d+)/(\d+)", shard or "0/1")
    if not match or not int(match[1]) < int(match[2]):
        raise UserError(f"--shard: INDEX/COUNT with INDEX below COUNT, counted from 0, not "
                        f"{shard!r}")
    return Share(int(match[1]), int(match[2]))


def _define_flags() -> None:
    """Flags of what is predicted; those of how are `_define_flags_of_answers` and `..._of_work`."""
    flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    define_step_flag()
    flags.DEFINE_string("images", None, "Photo, folder, @LIST or pattern; also gs://.")
    flags.DEFINE_string("data_dir", None, "Prepared data set, instead of --images.")
    flags.DEFINE_string("split", "test", "Its split, or a slice such as test[:100].")
    flags.DEFINE_string("output", None, "Folder for the results.")
    flags.DEFINE_enum(
        "explain", "fakes", EXPLAIN, "Photos that get explanation and masks: those not judged "
        "real; all; as fakes, and real ones are not even read by the language model; none.")
    flags.DEFINE_list("write", list(result_files.KINDS),
                      "Files per photo: json,mask,overlay; empty for none.")
    flags.mark_flags_as_required(["checkpoint", "output"])
    flags.register_validator("write", lambda kinds: {*kinds} <= {*result_files.KINDS},
                             f"some of {','.join(result_files.KINDS)}")
    _define_flags_of_answers()
    _define_flags_of_work()


def _define_flags_of_answers() -> None:
    greedy = Sampling()
    flags.DEFINE_integer("batch_size", 8, "Answers written at the same time.", lower_bound=1)
    define_dialogue_flag()
    flags.DEFINE_bool("int8", False, "Hold the language model in int8.")
    flags.DEFINE_float("temperature", greedy.temperature, "Of drawn answers; 0: the most probable "
                       "token.", lower_bound=0)
    flags.DEFINE_float("top_p", greedy.top_p, "Draw from the most probable tokens that hold this "
                       "much probability.", lower_bound=0, upper_bound=1)
    flags.DEFINE_integer("seed", greedy.seed, "Of the draws.", lower_bound=0)
    flags.DEFINE_integer("no_repeat", greedy.no_repeat, "No answer has the same run of so many "
                         "tokens twice; 0: it may.", lower_bound=0)
    flags.DEFINE_bool("force_seg", greedy.force_seg, "[SEG] behind every </p>, so that every "
                      "phrase has a mask.")


def _define_flags_of_work() -> None:
    flags.DEFINE_string("shard", "", "INDEX/COUNT: only every COUNT-th photo.")
    distributed.define_flag()
    flags.DEFINE_bool("retry_failures", False, "Try photos again that were left out.")
    flags.DEFINE_float("flush_seconds", 20, "At most about this much work is lost when the "
                       "process is killed.", lower_bound=0.01)
    flags.DEFINE_integer("threads", 4, "That read, and as many that write.", lower_bound=1)
    flags.DEFINE_integer("max_file_mb", images.MAX_BYTES >> 20, "MiB of an encoded photo; larger "
                         "ones are left out.", lower_bound=1)
    flags.DEFINE_integer("queue_mb", 1024, "MiB of photos before the predictor, and as much again "
                         "behind it.", lower_bound=1)


def _predict(given: flags.FlagValues) -> int:
    """Do the job that the flags describe; returns the exit code."""
    paths.folder(given.output, "--output")
    if not given.flush_seconds < float("inf"):
        raise UserError(f"--flush_seconds: a number of seconds, got {given.flush_seconds}")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # on odd files; each has its line
    share = _share(given.shard, given.distributed)
    source = _named_source(given.images, given.data_dir, given.split)
    sampling = Sampling(given.temperature, given.top_p, given.seed, given.no_repeat,
                        given.force_seg)
    # Before minutes are spent on loading.
    checkpoint = Checkpoint.open_together(given.checkpoint, given.step)
    # An empty mask of a model that draws none would say that it found nothing.
    masks = checkpoint.meta.config.sam is not None
    write = tuple(kind for kind in given.write if masks or kind != result_files.MASK)
    options = Options(
        explain=given.explain, write=write, sampling=sampling, int8=given.int8,
        dialogue=given.dialogue, share=share, retry_failures=given.retry_failures,
        flush_seconds=given.flush_seconds,
        limits=Limits(file_bytes=given.max_file_mb << 20, queue_bytes=given.queue_mb << 20,
                      threads=given.threads))
    job = BatchJob(given.output, source, checkpoint=checkpoint, options=options)
    if len(job.left) > MANY and write:
        print(f"{len(write)} files will be written for each of {len(job.left):,} photos; "
              f"--write= leaves only the lines", file=sys.stderr)
    speed = "nothing was left to do"
    if len(job.left):
        predictor = open_detector(checkpoint, batch_size=given.batch_size, sampling=sampling,
                                  question=Question.of(checkpoint.meta, given.dialogue),
                                  int8=given.int8)
        speed = job.run(predictor)
    done, failed = job.finish()
    print(f"{given.output}: {done:,} photos, {failed:,} left out; {speed}", flush=True)
    return LEFT_OUT_SOME if failed else 0


def main() -> None:
    """Predict as the command line says."""
    _define_flags()

    def predict() -> int:
        given = flags.FLAGS
        if given.shard and given.distributed:
            raise UserError("--shard is for processes that do not know of each other, "
                            "--distributed for those that do; give one of them")
        with distributed.joined(given.distributed):
            return _predict(given)

    command.run(predict)


if __name__ == "__main__":
    main()
