"""Stands in for legion_jax.train and legion_jax.evaluate, which take minutes.

Training leaves what the real one leaves, a checkpoint every other update. The environment says
where to note the call (STUB_CALLS), which run fails at update 4 (STUB_FAIL) and how long to wait
after a checkpoint (STUB_SLEEP). As a command it needs the standard library only, so it is quick.
"""

import json
import os
import pathlib
import sys
import time


def install(runs) -> None:
    """Put the stub in place of both commands of `runs`, which is tools.sweep.runs."""
    def command(what):
        return lambda run, python: [python, __file__, what, str(run.folder),
                                    json.dumps(run.settings.as_dict())]

    runs.Run.train_command, runs.Run.evaluate_command = command("train"), command("evaluate")


def train(folder: pathlib.Path, config: dict) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    saved = folder / "checkpoints"
    start = max((int(p.name) for p in saved.glob("*")), default=0)
    print(f"resumed from {start}", flush=True)
    with (folder / "metrics.jsonl").open("a") as log:
        for step in range(start, config["optimizer"]["total_steps"]):
            log.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\n")
            log.flush()
            if (step + 1) % config["checkpoint_every"] == 0:
                (saved / str(step + 1)).mkdir(parents=True)
                time.sleep(float(os.environ.get("STUB_SLEEP", 0)))
            if step == 3 and os.environ.get("STUB_FAIL") == folder.name:
                sys.exit("error: no luck at 4")


def evaluate(folder: pathlib.Path, config: dict) -> None:
    (folder / "evaluation").mkdir()
    scores = {"mean": {"f1": config["model"]["lora_rank"] / 10}, "mean_with_artifacts": None}
    (folder / "evaluation/metrics.json").write_text(json.dumps({"localisation": scores}))


if __name__ == "__main__":
    what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    if "STUB_CALLS" in os.environ:
        with open(os.environ["STUB_CALLS"], "a") as file:
            file.write(f"{what} {folder.name}\n")
    {"train": train, "evaluate": evaluate}[what](folder, json.loads(sys.argv[3]))
