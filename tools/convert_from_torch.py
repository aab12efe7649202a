"""Convert PyTorch weights, or check a conversion against the files it came from.

    python -m tools.convert_from_torch --checkpoint DIR --clip DIR --output DIR
    python -m tools.convert_from_torch --verify --output DIR

The layout is recognised by the names of the tensors. OUTPUT/params holds every parameter in the
dtype of its file, OUTPUT/tokenizer the tokenizer and OUTPUT/source what `tools.export_to_torch`
needs to write the PyTorch folders back.
"""

from legion_jax.convert.import_command import main

if __name__ == "__main__":
    main()
