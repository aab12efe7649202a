"""`python -m tools.predict`: the same as `python -m legion_jax.predict`."""

from legion_jax.predict.__main__ import main

if __name__ == "__main__":
    main()
