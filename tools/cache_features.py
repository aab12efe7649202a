"""Keep what a run's frozen towers see of its training data, so that no epoch computes it again.

    python -m tools.cache_features --config experiments/base.py --config.init_from=weights \\
        --config.data.data_dir=data --config.data.features=features

Takes the config of the run; `legion_jax.train` with the same one then reads the features. An
interrupted run is continued, a complete cache left alone.
"""

import ml_collections
from absl import flags

from input_pipeline.records import prepared
from legion_jax import command
from legion_jax.train import data as train_data, frozen_features, recipes, setup
from legion_jax.train.knobs import ConfigError, RunSettings


def make_caches(config: ml_collections.ConfigDict) -> None:
    """Makes every cache that the run of a config would read, and prints its size."""
    settings = RunSettings.from_config(config)
    folder = settings.data.features
    if not folder or not settings.init_from:
        raise ConfigError("config.data.features and config.init_from: both are needed, "
                          "a folder to write and the weights to see with")
    task = setup.read_task(settings)
    for of_data_set in train_data.caches(settings, task.model, task.examples):
        for cache in of_data_set:
            source = prepared.open_split(cache.data, cache.split)
            frozen_features.make_cache(cache, folder, source,
                                       batch_size=settings.eval.batch_size)
            file = cache.file(folder)
            print(f"{file}: {len(source):,} photos, {file.stat().length / 1e9:.3f} GB")


def main() -> None:
    """Makes the caches of the run on the command line."""
    config = recipes.define_flag()
    flags.mark_flags_as_required(["config"])
    command.run(lambda: make_caches(config.value))


if __name__ == "__main__":
    main()
