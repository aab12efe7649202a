"""The peer's update, and its answers photo by photo with transformers' key/value cache."""

import dataclasses

import numpy as np
import torch
import transformers
from torch.nn import functional

from input_pipeline.errors import UserError
from legion_jax.config import LegionConfig
from legion_jax.models import clip, sam_encoder
from legion_jax.train.losses import DICE_EPS, DICE_SCALE
from tools.bench.cases import Case, run_settings, without_lora
from tools.bench.peer_model import Peer, to_frame


def _pixels(images: np.ndarray, mean, std, size=None) -> torch.Tensor:
    """uint8[B, C, C, 3] -> normalised float32[B, 3, C, C], as a data loader hands them over.

    Outside of `size`, rows and columns, it is zero.
    """
    x = (images.astype(np.float32) - np.float32(mean)) / np.float32(std)
    if size is not None:
        x[:, size[0]:], x[:, :, size[1]:] = 0, 0
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _inputs(case: Case, rows: dict[str, np.ndarray], device: str) -> dict[str, torch.Tensor]:
    size, scale = case.photo, 255
    clip_mean, clip_std = (tuple(scale * v for v in values) for values in (clip.MEAN, clip.STD))
    inputs = {"clip": _pixels(rows["vision_image"], clip_mean, clip_std),
              "sam": _pixels(rows["sam_image"], sam_encoder.MEAN, sam_encoder.STD, size),
              "ids": torch.from_numpy(np.maximum(rows["ids"], 0)).long()}
    if "masks" in rows:
        masks = np.unpackbits(rows["masks"], axis=-1)[..., :size[0], :size[1]]
        inputs["masks"] = torch.from_numpy(masks.astype(np.float32))
        inputs["targets"] = torch.from_numpy(np.where(rows["loss_mask"], rows["ids"], -100)).long()
    return {name: value.to(device) for name, value in inputs.items()}


def device() -> str:
    """`cuda`. Raises UserError where PyTorch finds no GPU."""
    if not torch.cuda.is_available():
        raise UserError("the peer: PyTorch is built without CUDA here or finds no GPU")
    return "cuda"


def peak_bytes() -> int | None:
    """The most memory of the GPU that was in use; None without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def make_peer(config: LegionConfig, params: dict[str, np.ndarray] | None, device: str) -> Peer:
    """The model with these parameters, or with whatever transformers begins with."""
    with torch.device(device):
        model = Peer(config)
    if params is not None:
        model.load(params)
    return model


class PeerTrain:
    """The recipe's update; on a GPU its towers are compiled.

    `remat`: whether layers of the language model are computed again in the backward pass, which is
    begun where memory ends.
    """

    def __init__(self, case: Case, params: dict[str, np.ndarray] | None,
                 batch: dict[str, np.ndarray], device: str = "cpu"):
        self._case, self._device, settings = case, device, run_settings(case)
        self._model = make_peer(case.model, params, device).train()
        self._batch = _inputs(case, batch, device)
        self._parameters = self._model.train_as_recipe(case.model.dtype)
        self.trained = sum(p.numel() for p in self._parameters)
        adam = settings.optimizer
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=adam.learning_rate, betas=(adam.beta1, adam.beta2),
            eps=adam.epsilon, weight_decay=adam.weight_decay, fused=True)
        self._clip_norm, self._weights = adam.clip_norm, dataclasses.asdict(settings.loss)
        self.remat = False
        if device == "cuda":
            self._model.compile_towers()

    def __call__(self) -> dict[str, float]:
        """One update; its metrics."""
        try:
            return self._update()
        except torch.OutOfMemoryError:
            if self.remat:
                raise
        self.remat = True
        self._model.language.model.gradient_checkpointing_enable()
        torch.cuda.empty_cache()
        return self._update()

    def _update(self) -> dict[str, float]:
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device, torch.bfloat16,
                            enabled=self._case.model.dtype == "bfloat16"):
            terms = self._losses()
        loss = sum(self._weights[name] * value for name, value in terms.items())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimizer.step()
        return {"loss": loss.item(), "grad_norm": norm.item()} | {
            name: self._weights[name] * value.item() for name, value in terms.items()}

    def _losses(self) -> dict[str, torch.Tensor]:
        case, model, batch = self._case, self._model, self._batch
        x = model.splice(batch["ids"], batch["clip"], case.image_index)
        x = x.to(getattr(torch, case.model.dtype))  # else all between layers is float32
        states = model.language.model(inputs_embeds=x, use_cache=False).last_hidden_state
        # From the last patch on; by itself transformers would project the patches, too.
        start = case.image_index + case.model.vision.num_patches - 1
        logits = model.language.lm_head(states[:, start:-1])
        targets = batch["targets"][:, case.image_index + 1:]
        ce = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        rows, columns = (batch["ids"] == case.seg_id).nonzero(as_tuple=True)
        prompts = states[rows, columns + case.model.vision.num_patches - 2]
        masks = to_frame(model.draw(prompts.unflatten(0, (case.batch, case.masks)), batch["sam"]),
                         case.canvas, case.photo)
        p, target = masks.sigmoid(), batch["masks"]
        bce = functional.binary_cross_entropy_with_logits(masks, target)
        overlap = 2 * (p / DICE_SCALE * target).sum((-2, -1)) + DICE_EPS
        size = (p / DICE_SCALE).sum((-2, -1)) + (target / DICE_SCALE).sum((-2, -1)) + DICE_EPS
        return {"ce": ce, "bce": bce, "dice": (1 - overlap / size).mean()}


class PeerAnswers:
    """Photo by photo, as the published code and `generate` are used: prompt, tokens, masks."""

    def __init__(self, case: Case, params: dict[str, np.ndarray] | None,
                 asked: dict[str, np.ndarray], device: str = "cpu"):
        self._case = case
        self._model = make_peer(without_lora(case), params, device).eval().requires_grad_(False)
        self._model.to(getattr(torch, case.model.dtype))
        self._asked = {name: x.to(self._model.dtype) if x.is_floating_point() else x
                       for name, x in _inputs(case, asked, device).items()}
        self._step = self._plain_step
        if device == "cuda":
            self._step = torch.compile(self._plain_step, mode="reduce-overhead")

    @torch.inference_mode()
    def __call__(self) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Tokens int[B, M], masks of each photo bool[K, H, W], scores float32[B, K]."""
        answers = [self._answer(self.photo(number)) for number in range(self._case.photos)]
        tokens, masks, scores = zip(*answers, strict=True)
        return np.array(tokens), list(masks), np.stack(scores)

    def photo(self, number: int) -> dict[str, torch.Tensor]:
        """Inputs of one photo."""
        return {name: x[number:number + 1] for name, x in self._asked.items()}

    @torch.inference_mode()
    def decode(self, asked: dict[str, torch.Tensor]) -> tuple[list[int], list[torch.Tensor]]:
        """Tokens of one photo, and the states [1, D] that predict [SEG]."""
        case, language = self._case, self._model.language
        x = self._model.splice(asked["ids"], asked["clip"], case.image_index)
        cache, tokens, states = transformers.DynamicCache(), [], []
        for _ in range(case.new):
            hidden = language.model(inputs_embeds=x, past_key_values=cache,
                                    use_cache=True).last_hidden_state[:, -1]
            token = language.lm_head(hidden).argmax(-1)
            tokens.append(int(token))
            if tokens[-1] == case.seg_id:
                states.append(hidden)
            x = language.model.embed_tokens(token[:, None])
        return tokens, states

    @torch.inference_mode()
    def decode_batch(self, new: int) -> torch.Tensor:
        """Tokens int[B, new] of all photos at once, from a cache of fixed size.

        On a GPU the step is compiled, and replayed as one graph.
        """
        case, language = self._case, self._model.language
        x = self._model.splice(self._asked["ids"], self._asked["clip"], case.image_index)
        cache = transformers.StaticCache(config=language.config,
                                         max_cache_len=x.shape[1] + case.new)
        tokens = [language.lm_head(language.model(
            inputs_embeds=x, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        ).argmax(-1)]
        for number in range(1, new):
            place = torch.full((case.photos, 1), x.shape[1] + number - 1, device=x.device)
            tokens.append(self._step(tokens[-1], place, cache).clone())
        return torch.stack(tokens, dim=1).cpu()

    def _plain_step(self, token, place, cache):
        """The token after `token` [B], which is at `place` [B, 1]."""
        language = self._model.language
        states = language.model(inputs_embeds=language.model.embed_tokens(token[:, None]),
                                position_ids=place, past_key_values=cache,
                                use_cache=True).last_hidden_state
        return language.lm_head(states[:, -1]).argmax(-1)

    def _answer(self, asked):
        case = self._case
        tokens, states = self.decode(asked)
        logits = to_frame(self._model.draw(torch.stack(states, dim=1), asked["sam"]),
                          case.canvas, case.photo)[0]
        positive = logits > 0
        total = torch.where(positive, logits.sigmoid(), 0).sum((-2, -1))
        return (tokens, positive.numpy(),
                (total / positive.sum((-2, -1)).clamp(min=1)).numpy())
