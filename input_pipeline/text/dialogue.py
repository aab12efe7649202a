"""How a system and its user talk: what is written around questions and answers, and to what end.

A dialogue is a value; which of them a model was trained with is a part of that model. The text of
a conversation is `system`, then of every turn `question` and `answer`:

    legion          SYSTEM USER: The <im_start><image><im_end> provides ... Q ASSISTANT: A</s>
    llava15_chat    USER: <image>, line break, Q ASSISTANT: A </s>   (a system's text only if given)
    raw             <image>Q                                         (the question alone)
    sida, lisa      SYSTEM USER: <im_start><image><im_end>, line break, Q ASSISTANT: A</s>
    sida_described  as sida, and the question asks for a description

What is answered is the record's caption. SIDA's answers begin with words for the record's label; a
described one goes on with the caption, if there is one, and ends with `[END]`:

    sida            [CLS] The image is tampered [SEG]
    sida_described  [CLS] The image is tampered [SEG] CAPTION [END]
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from etils import epath

from input_pipeline.errors import UserError
from input_pipeline.text.fast_tokenizer import PAD_TOKEN, FastTokenizer
from input_pipeline.text.tokenizer import ADDED_TOKENS, IMAGE_TOKEN, Tokenizer, train_tokenizer

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
INSTRUCTION = (
    "Please provide a detailed analysis of artifacts in this photo, considering physical "
    "artifacts (e.g., optical display issues, violations of physical laws, and "
    "spatial/perspective errors), structural artifacts (e.g., deformed objects, asymmetry, or "
    "distorted text), and distortion artifacts (e.g., color/texture distortion, noise/blur, "
    "artistic style errors, and material misrepresentation). Output with interleaved "
    "segmentation masks for the corresponding parts of the answer."
)
REAL_OR_FAKE = "Does the image looks real/fake?"  # sic
THREE_WAY = (
    "Can you identify if this image is real, full synthetic, or tampered image? Please mask the "
    "tampered regions if it is tampered."
)
SEGMENT = "Can you segment the tampered region in this image? Please output segmentation mask."
_SEG = "[SEG]"
TOKENIZERS = {kind.rules: kind for kind in (Tokenizer, FastTokenizer)}


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a conversation's text; `learned`: it is the answerer's; `images` in it."""

    text: str
    learned: bool = False
    images: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialogue:
    """What differs between systems in what is said to them, and what they are to say.

    name: under which checkpoints and reports know it.
    instruction: the question that its systems were trained to be asked.
    system: the text that opens a conversation, a space behind it; empty: none.
    question: a user's turn up to where the answer begins, with {photo} and {question}.
    photo: what stands for a photo; holds `<image>` once.
    marks: what a `<image>` inside a question does. "refused": nothing may name the photo but the
        dialogue. "gathered": each moves to the beginning of its turn, and the question is
        stripped. "kept": it stays where it is. Where no question has one, a photo stands before
        the first.
    lead: what stands before every answer and is not learned.
    answer: what is learned, with {answer}; None: the dialogue asks and has no form for answers.
    region: how a phrase with a mask is written in an answer, with {phrase}.
    openings: what an answer begins with, as (label, text) of every label there may be; the mask of
        a [SEG] in it is all that is marked on the photo. Without any, an answer is the caption.
    described: whether the caption follows the opening; closing: what follows at the end.
    tokens: added tokens that the tokenizer must have.
    stop: the token that ends what is generated.
    stops: what it is written behind in training, each "answer" or the "conversation".
    rules: of the tokenizer, see TOKENIZERS.
    """

    name: str
    instruction: str
    system: str = ""
    question: str
    photo: str
    marks: Literal["refused", "gathered", "kept"]
    lead: str = ""
    answer: str | None
    region: str = "{phrase}"
    openings: tuple[tuple[str, str], ...] = ()
    described: bool = True
    closing: str = ""
    tokens: tuple[str, ...]
    stop: str = "</s>"
    stops: Literal["answer", "conversation"] = "answer"
    rules: Literal["slow", "fast"]

    def prompt(self, question: str) -> str:
        """The text that an answer follows."""
        return self._questions([question])[0].text

    def parts(self, turns: Sequence[tuple[str, str]]) -> list[Part]:
        """A whole conversation of (question, answer), at least one, of which the answers are
        learned; the first part is the prompt.

        Raises UserError where the dialogue has no form for answers.
        """
        if self.answer is None:
            raise UserError(f"dialogue {self.name}: only asks, it has no form for answers")
        parts = []
        stop = self.stop if self.stops == "answer" else ""
        questions = self._questions([question for question, _ in turns])
        for question, (_, answer) in zip(questions, turns, strict=True):
            said = self.answer.format(answer=answer) + stop
            parts += [question, Part(self.lead), Part(said, learned=True)]
        return parts if stop else [*parts, Part(self.stop, learned=True)]

    def answer_to(self, label: str, caption: str) -> str:
        """What is to be said of a photo: opening, caption and closing, one space between them.

        Args:
            label: of the photo, see `records.record.LABELS`.
            caption: with its phrases already written as `region`.

        Raises UserError naming the label where the dialogue has no opening for it.
        """
        opening = self._opening(label)
        return " ".join(filter(None, [opening, caption * self.described, self.closing]))

    def describes(self, caption: str) -> bool:
        """Whether an answer says more than its opening and closing."""
        return bool(caption) and self.described

    @property
    def masks_phrases(self) -> bool:
        """Whether the phrases of a caption have masks, each its own."""
        return _SEG in self.region

    def photo_masks(self, label: str) -> int:
        """How many masks, of all that is marked, an answer to a photo of this label opens with.

        Raises UserError as `answer_to` does.
        """
        return self._opening(label).count(_SEG)

    def says(self, token: str) -> bool:
        """Whether its answers may hold a token."""
        forms = (self.region, self.closing, *(text for _, text in self.openings))
        return any(token in form for form in forms)

    def _opening(self, label: str) -> str:
        openings = dict(self.openings)
        if openings and label not in openings:
            raise UserError(f"no answer of the dialogue {self.name} is for photos labelled "
                            f"{label}, only for {', '.join(openings)}")
        return openings.get(label, "")

    def open_tokenizer(self, folder: epath.PathLike) -> Tokenizer:
        """The tokenizer of a folder, by the dialogue's rules.

        Raises TokenizerError as the tokenizer's `from_folder` does, naming this dialogue where a
        token it needs is missing.
        """
        return TOKENIZERS[self.rules].from_folder(folder, needed=self.tokens, dialogue=self.name)

    def train_tokenizer(self, texts: Iterable[str], vocab_size: int,
                        folder: epath.PathLike) -> Tokenizer:
        """Learns a new one from `texts` and writes it to `folder`, see `tokenizer.train_tokenizer`.
        """
        return train_tokenizer(texts, vocab_size, folder, tokens=self.tokens, dialogue=self.name,
                               kind=TOKENIZERS[self.rules])

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raises UserError naming what of `tokenizer` does not fit the dialogue."""
        if tokenizer.rules != self.rules:
            raise UserError(f"{tokenizer.name}: read by the {tokenizer.rules} tokenizer's rules, "
                            f"the dialogue {self.name} goes by the {self.rules} one's")
        tokenizer.require(self.tokens, dialogue=self.name)

    def _questions(self, questions: Sequence[str]) -> list[Part]:
        """Each with what is written around it, the system's text before the first."""
        images = [question.count(IMAGE_TOKEN) for question in questions]
        if self.marks == "refused" or not any(images):
            added = images = [1] + [0] * (len(questions) - 1)
        else:
            added = images if self.marks == "gathered" else [0] * len(questions)
        parts = []
        for question, before, number in zip(questions, added, images, strict=True):
            if self.marks == "gathered":
                question = question.replace(IMAGE_TOKEN, "").strip()
            opening = f"{self.system} " if self.system and not parts else ""
            text = self.question.format(photo=self.photo * before, question=question)
            parts.append(Part(opening + text, images=number))
        return parts


LEGION = Dialogue(
    name="legion", instruction=INSTRUCTION, system=SYSTEM,
    question="USER: {photo}{question} ASSISTANT:",
    photo=f"The <im_start>{IMAGE_TOKEN}<im_end> provides an overview of the picture.\n",
    marks="refused", answer=" {answer}", region="<p> {phrase} </p> [SEG]", tokens=ADDED_TOKENS,
    rules="slow")
LLAVA15_CHAT = Dialogue(
    name="llava15_chat", instruction=REAL_OR_FAKE,
    question="USER: {photo}{question} ASSISTANT:", photo=f"{IMAGE_TOKEN}\n",
    marks="gathered", lead=" ", answer="{answer} ", tokens=(IMAGE_TOKEN, PAD_TOKEN),
    stops="conversation", rules="fast")
RAW = Dialogue(  # how FakeVLM is asked in its evaluation
    name="raw", instruction=REAL_OR_FAKE, question="{photo}{question}", photo=IMAGE_TOKEN,
    marks="kept", answer=None, tokens=(IMAGE_TOKEN, PAD_TOKEN), rules="fast")
SIDA = Dialogue(
    name="sida", instruction=THREE_WAY, system=SYSTEM,
    question="USER: {photo}{question} ASSISTANT:", photo=f"<im_start>{IMAGE_TOKEN}<im_end>\n",
    marks="refused", answer=" {answer}",
    openings=(("real", "[CLS] The image is real"),
              ("synthetic", "[CLS] The image is full synthetic"),
              ("tampered", "[CLS] The image is tampered [SEG]")),
    described=False, tokens=("<im_start>", "<im_end>", "[CLS]", "[SEG]"), rules="slow")
SIDA_DESCRIBED = dataclasses.replace(
    SIDA, name="sida_described", instruction=THREE_WAY.removesuffix(".") + " and answer why.",
    described=True, closing="[END]", tokens=(*SIDA.tokens, "[END]"))
LISA = dataclasses.replace(  # what SIDA is trained from, which knows no [CLS]
    SIDA, name="lisa", instruction=SEGMENT, openings=(), described=True,
    tokens=("<im_start>", "<im_end>", "[SEG]"))
DIALOGUES: Mapping[str, Dialogue] = MappingProxyType({dialogue.name: dialogue for dialogue in (
    LEGION, LLAVA15_CHAT, RAW, SIDA, SIDA_DESCRIBED, LISA)})


def dialogue_named(name: str, subject: str = "dialogue") -> Dialogue:
    """The dialogue of that name. Raises UserError, which begins with `subject`, naming those there
    are.
    """
    if name not in DIALOGUES:
        raise UserError(f"{subject}: {', '.join(DIALOGUES)}, not {name!r}")
    return DIALOGUES[name]
