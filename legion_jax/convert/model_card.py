"""README.md of a Hugging Face export: what its parts are, and code that puts them together."""

import string

from input_pipeline.text.conversation import build_prompt
from legion_jax.config import VISION, LegionConfig

TITLE = """\
# LEGION in plain PyTorch and transformers

LEGION is a LLaVA, a SAM and small heads. Together they say whether a photo is synthetic, explain
why, and mask every artifact they name. Of these parts this folder holds $parts.
Transformers 4.52 or newer opens it; no code beyond the block below is needed.

"""
LLAVA = """\
- `llava/`: `LlavaForConditionalGeneration`, that is CLIP's vision tower, the projector and the
  language model.$lora Row $image_token of the embedding and of `lm_head` stands for the `<image>`
  placeholder, which must never be generated: `generation_config.json` suppresses it.$zero_row
"""
SAM = """\
- `sam/`: `SamModel`, image encoder, prompt encoder and mask decoder.
"""
HEADS = """\
- `legion_heads.safetensors`: what neither of them has a place for, two layers each with a ReLU
  between them.
"""
PROJECTION = """\
  - `model.text_hidden_fcs.0.{0,2}.*`: from the language model's state that predicts a `[SEG]` to
    a prompt for SAM's mask decoder.
"""
VERDICT = """\
  - `prediction_head.{0,2}.*`: from CLIP's class state to the scores of $classes.
"""
CONVERSATION = """
A conversation starts with this prompt, in which `<image>` becomes $patches tokens of id
$image_token; the answer follows:

```text
$prompt
```

`prompt_ids.json` holds its tokens as LEGION is trained on them. Transformers' own tokenizers cut
the text differently at its beginning and beside `<im_start>`, `<p>` and `[SEG]`: take the ids of
the file, and of answers those that `llava.generate` writes. The code below reads a whole
conversation, answer included.

"""
OPEN = """\
# Set beforehand:
#   folder       path of this folder
#   input_ids    int64[1, T], the prompt of prompt_ids.json and an answer
#   clip_pixels  float32[1, 3, $clip_side, $clip_side], from llava/preprocessor_config.json
"""
OPEN_SAM = """\
#   sam_pixels   float32[1, 3, $sam_side, $sam_side], from sam/preprocessor_config.json
"""
LOAD = """\
import torch
${imports}from transformers import LlavaForConditionalGeneration$sam_model

llava = LlavaForConditionalGeneration.from_pretrained(f"{folder}/llava").eval()
"""
IMPORTS = """\
from safetensors.torch import load_file
from torch.nn.functional import linear
"""
LOAD_HEADS = """\
heads = load_file(f"{folder}/legion_heads.safetensors")


def head(states, name):
    first, second = ([heads[f"{name}.{number}.{kind}"].float() for kind in ("weight", "bias")]
                     for number in (0, 2))
    return linear(torch.relu(linear(states.float(), *first)), *second)

"""
READ = """
with torch.no_grad():
    read = llava(input_ids=input_ids, attention_mask=torch.ones_like(input_ids),
                 pixel_values=clip_pixels.to(llava.dtype), output_hidden_states=True)
language_logits = read.logits  # of the next token at every position
"""
DRAW = """
# One mask per [SEG] (id $seg_token), from the state one position before it, after the final norm.
# SAM takes one or more; an answer without [SEG] ends here.
before = (input_ids[0] == $seg_token).nonzero()[:, 0] - 1
prompts = head(read.hidden_states[-1][0, before], "model.text_hidden_fcs.0")  # [K, width]
sam = SamModel.from_pretrained(f"{folder}/sam").float().eval()
with torch.no_grad():
    no_mask = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    drawn = sam.mask_decoder(
        image_embeddings=sam.get_image_embeddings(sam_pixels),
        image_positional_embeddings=sam.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=prompts[None, :, None],
        dense_prompt_embeddings=no_mask.expand(-1, -1, $grid, $grid), multimask_output=False)
mask_logits = drawn[0][0, :, 0]  # [K, $low, $low] over SAM's square; above 0: artifact
"""
JUDGE = """
# The verdict: CLIP's class state after the block that LLaVA selects, without a norm.
with torch.no_grad():
    seen = llava.model.vision_tower(clip_pixels.to(llava.dtype), output_hidden_states=True)
class_state = seen.hidden_states[llava.config.vision_feature_layer][:, 0]
verdict_logits = head(class_state, "prediction_head")
verdict = dict(zip($classes, verdict_logits.softmax(-1)[0].tolist()))
"""
LORA = " Its LoRA is merged into its weights."
MASK_NOTES = """
SAM's square holds the photo in its upper left corner: enlarge `mask_logits` to
$sam_side x $sam_side, cut out the photo and enlarge it to its own size.
"""
ROUNDING_NOTES = """
The published code evaluates the language model's rotary tables and SAM's positions in bfloat16,
transformers in float32. Scores differ by that rounding.
"""

ALONE = """\
# A LLaVA that says whether a photo is real

This folder is a `LlavaForConditionalGeneration`: CLIP's vision tower, a projector and a language
model, with their image processor and tokenizer.$lora Asked about a photo it answers in words,
and its first sentence says which of these the photo is: $classes. Row $image_token of the embedding
stands for the photo, $patches times. Transformers 4.45 or newer opens it.

```python
# Set beforehand:
#   folder   path of this folder
#   photo    a picture of PIL in RGB
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

processor = AutoProcessor.from_pretrained(folder)
llava = LlavaForConditionalGeneration.from_pretrained(folder).eval()
content = [{"type": "image"}, {"type": "text", "text": "$question"}]
prompt = processor.apply_chat_template([{"role": "user", "content": content}],
                                       add_generation_prompt=True)
inputs = processor(images=photo, text=prompt, return_tensors="pt").to(llava.dtype)
with torch.no_grad():
    written = llava.generate(**inputs, max_new_tokens=256)
new = written[0, inputs["input_ids"].shape[1]:]
answer = processor.decode(new, skip_special_tokens=True)
```
"""


def llava_card(config: LegionConfig, *, image_token: int, question: str) -> bytes:
    """The card of a LLaVA that stands alone; its one code block asks it `question`."""
    rounded = config.position_dtype == "bfloat16"
    return string.Template(ALONE + (ROUNDING_NOTES if rounded else "")).substitute(
        image_token=image_token, patches=config.vision.num_patches, question=question,
        classes=", ".join(config.classes), lora=LORA if config.lora.rank else "").encode()


def model_card(config: LegionConfig, *, image_token: int, seg_token: int,
               own_row: bool = True, sam: bool = True, masks: bool = True) -> bytes:
    """The card; its one code block runs every part there is.

    Args:
        config: the verdict head is described when it names classes.
        image_token, seg_token: ids of `<image>` and `[SEG]`.
        own_row: whether the row of `<image>` was added by the export, and holds zeros.
        sam: whether the export has SAM; masks: the projection of [SEG] states too.
    """
    verdict = config.verdict_source == VISION
    pieces = (
        (TITLE, True), (LLAVA, True), (SAM, sam), (HEADS, masks or verdict),
        (PROJECTION, masks), (VERDICT, verdict), (CONVERSATION, True), ("```python\n", True),
        (OPEN, True), (OPEN_SAM, masks), (LOAD, True), (LOAD_HEADS, masks or verdict),
        (READ, True), (DRAW, masks), (JUDGE, verdict), ("```\n", True), (MASK_NOTES, masks),
        (ROUNDING_NOTES, config.position_dtype == "bfloat16"))
    modules = ["the LLaVA", *["the SAM"] * sam, *["the projection between them"] * masks,
               *["the verdict head"] * verdict]
    parts = f"{', '.join(modules[:-1])} and {modules[-1]}" if modules[1:] else modules[0]
    text = string.Template("".join(piece for piece, present in pieces if present))
    return text.substitute(
        image_token=image_token, seg_token=seg_token, patches=config.vision.num_patches,
        clip_side=config.vision.image_size, sam_side=config.sam.image_size, grid=config.sam.grid,
        low=4 * config.sam.grid, sam_model=", SamModel" if masks else "",
        classes=repr(config.classes), prompt=build_prompt(),
        parts=parts, imports=IMPORTS if masks or verdict else "",
        lora=LORA if config.lora.rank else "",
        zero_row=" It is zero, and a score of 0 may be the highest." if own_row else "").encode()
