"""Small models of the other systems of the family, made of the small LEGION's sizes."""

import dataclasses

from legion_jax.config import TOKEN, WORDS, LegionConfig, VerdictConfig


def fakevlm(config: LegionConfig) -> LegionConfig:
    """No SAM, and the words are the verdict."""
    return dataclasses.replace(config, sam=None,
                               verdict=VerdictConfig(WORDS, ("real", "fake"), hidden=0))


def sida(config: LegionConfig) -> LegionConfig:
    """A linear projector, a head of three classes on [CLS], and fusion."""
    return dataclasses.replace(
        config, projector="linear", fusion=True,
        verdict=VerdictConfig(TOKEN, ("real", "synthetic", "tampered"), hidden=24))
