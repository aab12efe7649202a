PYTHON ?= python3
BIN := .venv/bin

# The TPU compiler this jax was built with, for a test; jax does not look for it there.
LIBTPU := import importlib.metadata as m; \
	print(next(r for r in m.requires('jax') if r.startswith('libtpu')).split(';')[0])

.PHONY: setup test test-slow demo lint

setup: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[test,demo]'
	$(BIN)/pip install --quiet --no-deps --target .venv/libtpu "$$($(BIN)/python -c "$(LIBTPU)")"
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/lint-imports

test: setup lint
	$(BIN)/python -m pytest -m 'not slow' -n auto --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

demo: setup
	$(BIN)/python -m tools.demo --output demo
