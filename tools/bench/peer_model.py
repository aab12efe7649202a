"""The peer: the same model from the parts of `transformers`, with the same weights.

CLIP, LLaMA and SAM are transformers' own modules with its scaled-dot-product attention; what LLaVA
and LEGION put between them (projector, splice, [SEG] projection, LoRA) is written as plainly here.
"""

import json

import torch
import transformers
from torch import nn

from legion_jax.config import LegionConfig, LoraConfig
from legion_jax.convert import config_files, names
from legion_jax.convert.table import lora_rules, rules
from tools.verify_case.whole import to_torch_tensors

# Modules of transformers that LEGION never runs, left as they are made.
_UNUSED = ("post_layernorm.", "prompt_encoder.mask_embed.", "prompt_encoder.point_embed.",
           "prompt_encoder.not_a_point_embed.", "shared_embedding.", "position_ids", "inv_freq")


class Lora(nn.Module):
    """A frozen linear layer with a low-rank update (Hu et al., 2021)."""

    def __init__(self, base: nn.Linear, lora: LoraConfig):
        super().__init__()
        self.base, self.scale = base, lora.alpha / lora.rank
        self.lora_A = nn.Linear(base.in_features, lora.rank, bias=False)
        self.lora_B = nn.Linear(lora.rank, base.out_features, bias=False)
        self.dropout = nn.Dropout(lora.dropout)

    def forward(self, x):
        """x [..., D] -> [..., F]."""
        return self.base(x) + self.scale * self.lora_B(self.lora_A(self.dropout(x)))


class Peer(nn.Module):
    """All towers; only what the recipe trains has `requires_grad`."""

    def __init__(self, config: LegionConfig):
        super().__init__()
        self.config = config
        c = config.language
        llava = transformers.LlavaConfig(**_parsed(config_files.llava_files(
            config, blocks=config.vision.depth, rows=c.vocab, image_token=c.vocab,
            dtype="float32")))
        sam = transformers.SamConfig(**_parsed(config_files.sam_files(config)))
        for part in (llava.vision_config, llava.text_config, sam, sam.vision_config,
                     sam.mask_decoder_config):
            part._attn_implementation = "sdpa"
        self.clip = transformers.CLIPVisionModel(llava.vision_config)
        self.language = transformers.LlamaForCausalLM(llava.text_config)
        self.sam = transformers.SamModel(sam)
        C, D, W = config.vision.width, c.width, config.sam.prompt_width
        self.projector = nn.Sequential(nn.Linear(C, D), nn.GELU(), nn.Linear(D, D))
        self.text_projection = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, W))
        if config.lora.rank:
            for layer in self.language.model.layers:
                attention = layer.self_attn
                attention.q_proj = Lora(attention.q_proj, config.lora)
                attention.v_proj = Lora(attention.v_proj, config.lora)

    @property
    def dtype(self) -> torch.dtype:
        return self.projector[0].weight.dtype

    def train_as_recipe(self, frozen: str) -> list[nn.Parameter]:
        """Freeze what LEGION freezes, held in the dtype `frozen`; the trained parameters."""
        self.requires_grad_(False)
        for module in (self.language.model.embed_tokens, self.language.lm_head,
                       self.text_projection, self.sam.mask_decoder):
            module.requires_grad_(True)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or ".lora_" in name)
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, frozen))
        return [p for p in self.parameters() if p.requires_grad]

    def compile_towers(self) -> None:
        """Let PyTorch compile the towers, each when it first runs."""
        for tower in (self.clip, self.language.model, self.sam.vision_encoder):
            tower.compile()

    @torch.no_grad()
    def load(self, params: dict) -> None:
        """Our parameters, {path: array}. Raises KeyError for one that has no source."""
        table = rules(self.config) + lora_rules(self.config)
        published = to_torch_tensors(params, table)
        sam = names.sam_hf(self.config.sam.iou_layers)
        for name, value in self.state_dict().items():
            if not any(part in name for part in _UNUSED):
                value.copy_(torch.from_numpy(published[_published_name(name, sam)].copy()))

    def splice(self, ids, pixels, image_index: int):
        """Text embeddings with the image's in place of the placeholder, [B, T - 1 + P, D]."""
        with torch.no_grad():
            seen = self.clip(pixel_values=pixels).last_hidden_state
            patches = self.projector(seen[:, 1:])
        embed = self.language.model.embed_tokens
        return torch.cat([embed(ids[:, :image_index]), patches,
                          embed(ids[:, image_index + 1:])], dim=1)

    def draw(self, states, pixels):
        """States that predict [SEG], [B, K, D], and SAM's pixels -> logits [B, K, 4Y, 4X]."""
        with torch.no_grad():
            image = self.sam.vision_encoder(pixels).last_hidden_state
        B, D, Y, X = image.shape
        dense = self.sam.prompt_encoder.no_mask_embed.weight.reshape(1, D, 1, 1).expand(B, D, Y, X)
        masks, _ = self.sam.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=self.sam.get_image_wide_positional_embeddings().expand(
                B, -1, -1, -1),
            sparse_prompt_embeddings=self.text_projection(states)[:, :, None],
            dense_prompt_embeddings=dense, multimask_output=False)
        return masks[:, :, 0]


def to_frame(logits, canvas: int, photo: tuple[int, int]):
    """[B, K, 4Y, 4X] -> [B, K, height, width] for a photo that the canvas holds at its size."""
    logits = nn.functional.interpolate(logits, (canvas, canvas), mode="bilinear",
                                       align_corners=False)
    return logits[..., :photo[0], :photo[1]]


def _parsed(files: dict[str, bytes]) -> dict:
    return json.loads(files["config.json"])


def _published_name(name: str, sam: names.Spelling) -> str:
    """The published name of one of the peer's tensors."""
    tower, _, rest = name.partition(".")
    if tower == "clip":
        return "vision_model." + rest.removeprefix("vision_model.")
    if tower == "language":
        return rest.replace(".base.", ".")
    if tower == "sam":
        return sam.to_published(rest)
    return {"projector": "model.mm_projector.", "text_projection": "model.text_hidden_fcs.0."}[
        tower] + rest
