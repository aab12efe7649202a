"""tools/inspect_params/inventory.py of FakeVLM and SIDA: listed as their conversion."""

import dataclasses

import family_folders
import inspected
import layouts
import pytest
from inspected import by_path, sums

from legion_jax.config import LoraConfig, VerdictConfig
from tools.inspect_params import __main__ as inspect_params, inventory


@pytest.mark.parametrize("system", ["fakevlm", "sida"])
def test_torch_folders_are_listed_as_their_conversion(config, tmp_path, system):
    """With neither a conversion's options nor SAM's sizes."""
    language = dataclasses.replace(config.language, vocab=300)
    if system == "fakevlm":
        model = dataclasses.replace(config, language=language, lora=LoraConfig(), sam=None,
                                    verdict=VerdictConfig("words", ("real", "fake"), hidden=0))
        family_folders.fakevlm(tmp_path / "in", model, family_folders.random_tensors(model),
                               spare=9)
        main, added = tmp_path / "in", {}
    else:
        model = dataclasses.replace(
            config, language=language, lora=LoraConfig(), projector="linear", fusion=True,
            verdict=VerdictConfig("token", ("real", "synthetic", "tampered"), hidden=24))
        main, clip = family_folders.sida(tmp_path, model, family_folders.random_tensors(model))
        added = {"clip": str(clip)}
    layouts.convert(main, tmp_path / "jax", **added, sam_config=model.sam and {
        "decoder_num_heads": model.sam.decoder_heads})
    listed = inspect_params.of_torch(str(main), **added)
    assert not (listed.problems or listed.unknown or listed.absent)
    assert listed.parameters == inventory.of_checkpoint(tmp_path / "jax").parameters
    assert inspected.shapes(listed).keys() == by_path(listed).keys()
    assert ("sam_encoder" in sums(listed, depth=1)) == ("fusion" in sums(listed, depth=1)) == (
        system == "sida")
    if system == "sida":
        packed = "model.attention_layer.in_proj_weight"
        assert {by_path(listed)[f"fusion/{name}/kernel"].source
                for name in ("query", "key", "value")} == {packed}
        assert by_path(listed)["mask_decoder/iou_token"].source.startswith("model.visual_model.")
