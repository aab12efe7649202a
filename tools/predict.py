"""Verdict, explanation and masks for photos: one, a folder, or a million of them.

    python -m tools.predict --checkpoint DIR --images SOURCE --output DIR

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
from legion_jax.predict import job as job_lib, photo_sources, result_files
from legion_jax.predict.job_lines import Share
from legion_jax.predict.prediction import EXPLAIN
from legion_jax.predict.predictor import Predictor
from legion_jax.predict.queues import Limits
from legion_jax.predict.sampling import Sampling

LEFT_OUT_SOME = 2
GREEDY = Sampling()
MANY = 10_000  # photos, from which on files for each of them are worth a word


def open_source(images_flag: str | None, data_dir: str | None, split: str) -> photo_sources.Source:
    """The one source that is named. Raises UserError."""
    if bool(images_flag) == bool(data_dir):
        raise UserError("name the photos either with --images or with --data_dir")
    source = (photo_sources.RecordSource(data_dir, split) if data_dir
              else photo_sources.open_source(images_flag))
    if source.repeated:
        print(f"{images_flag}: {source.repeated} lines repeat others; each photo is taken once",
              file=sys.stderr)
    return source


def share_of(shard: str, how: str) -> Share:
    """This process's share; with `how` it has joined the others. Raises UserError."""
    if how:
        return Share(jax.process_index(), jax.process_count())
    match = re.fullmatch(r"(\d+)/(\d+)", shard or "0/1")
    if not match or not int(match[1]) < int(match[2]):
        raise UserError(f"--shard: INDEX/COUNT with INDEX below COUNT, counted from 0, not "
                        f"{shard!r}")
    return Share(int(match[1]), int(match[2]))


if __name__ == "__main__":
    CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Converted checkpoint or training run.")
    IMAGES = flags.DEFINE_string("images", None, "Photo, folder, @LIST or pattern; also gs://.")
    DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data set, instead of --images.")
    SPLIT = flags.DEFINE_string("split", "test", "Its split, or a slice such as test[:100].")
    OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.")
    EXPLAINED = flags.DEFINE_enum(
        "explain", "fakes", EXPLAIN, "Photos that get explanation and masks: those not judged "
        "real; all; as fakes, and real ones are not even read by the language model; none.")
    WRITE = flags.DEFINE_list("write", list(result_files.KINDS),
                              "Files per photo: json,mask,overlay; "
                              "empty for none.")
    BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Answers written at the same time.",
                                      lower_bound=1)
    INT8 = flags.DEFINE_bool("int8", False, "Hold the language model in int8.")
    TEMPERATURE = flags.DEFINE_float("temperature", GREEDY.temperature, "Of drawn answers; 0: the "
                                     "most probable token.", lower_bound=0)
    TOP_P = flags.DEFINE_float("top_p", GREEDY.top_p, "Draw from the most probable tokens that "
                               "hold this much probability.", lower_bound=0, upper_bound=1)
    SEED = flags.DEFINE_integer("seed", GREEDY.seed, "Of the draws.", lower_bound=0)
    NO_REPEAT = flags.DEFINE_integer("no_repeat", GREEDY.no_repeat, "No answer has the same run of "
                                     "so many tokens twice; 0: it may.", lower_bound=0)
    FORCE_SEG = flags.DEFINE_bool("force_seg", GREEDY.force_seg, "[SEG] behind every </p>, so that "
                                  "every phrase has a mask.")
    SHARD = flags.DEFINE_string("shard", "", "INDEX/COUNT: only every COUNT-th photo.")
    DISTRIBUTED = distributed.define_flag()
    RETRY = flags.DEFINE_bool("retry_failures", False, "Try photos again that were left out.")
    FLUSH = flags.DEFINE_float("flush_seconds", 20, "At most about this much work is lost when "
                               "the process is killed.", lower_bound=0.01)
    THREADS = flags.DEFINE_integer("threads", 4, "That read, and as many that write.",
                                   lower_bound=1)
    FILE_MB = flags.DEFINE_integer("max_file_mb", images.MAX_BYTES >> 20, "MiB of an encoded "
                                   "photo; larger ones are left out.", lower_bound=1)
    QUEUE_MB = flags.DEFINE_integer("queue_mb", 1024, "MiB of photos before the predictor, and "
                                    "as much again behind it.", lower_bound=1)
    flags.mark_flags_as_required(["checkpoint", "output"])
    flags.register_validator("write", lambda kinds: {*kinds} <= {*result_files.KINDS},
                             f"some of {','.join(result_files.KINDS)}")

    def predict() -> int:
        paths.folder(OUTPUT.value, "--output")
        if not FLUSH.value < float("inf"):
            raise UserError(f"--flush_seconds: a number of seconds, got {FLUSH.value}")
        warnings.filterwarnings("ignore", module=r"PIL\.")  # on odd files; each has its line
        share = share_of(SHARD.value, DISTRIBUTED.value)
        source = open_source(IMAGES.value, DATA_DIR.value, SPLIT.value)
        sampling = Sampling(TEMPERATURE.value, TOP_P.value, SEED.value, NO_REPEAT.value,
                            FORCE_SEG.value)
        options = job_lib.Options(
            explain=EXPLAINED.value, write=tuple(WRITE.value), sampling=sampling,
            int8=INT8.value, share=share, retry_failures=RETRY.value, flush_seconds=FLUSH.value,
            limits=Limits(file_bytes=FILE_MB.value << 20, queue_bytes=QUEUE_MB.value << 20,
                          threads=THREADS.value))
        # Before minutes are spent on loading.
        job = job_lib.BatchJob(OUTPUT.value, source, checkpoint=CHECKPOINT.value,
                               options=options)
        if len(job.left) > MANY and WRITE.value:
            print(f"{len(WRITE.value)} files will be written for each of {len(job.left):,} photos; "
                  f"--write= leaves only the lines", file=sys.stderr)
        speed = "nothing was left to do"
        if len(job.left):
            predictor = Predictor.from_folder(CHECKPOINT.value, batch_size=BATCH_SIZE.value,
                                              sampling=sampling, int8=INT8.value)
            speed = job.run(predictor)
        done, failed = job.finish()
        print(f"{OUTPUT.value}: {done:,} photos, {failed:,} left out; {speed}", flush=True)
        return LEFT_OUT_SOME if failed else 0

    def main() -> int:
        if SHARD.value and DISTRIBUTED.value:
            raise UserError("--shard is for processes that do not know of each other, "
                            "--distributed for those that do; give one of them")
        with distributed.joined(DISTRIBUTED.value):
            return predict()

    command.run(main)
