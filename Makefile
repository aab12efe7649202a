PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup test test-slow demo lint

setup: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[test,demo]'
	touch $@

lint: setup
	$(BIN)/ruff check .

test: setup lint
	$(BIN)/python -m pytest -m 'not slow' -n auto --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

demo: setup
	$(BIN)/python -m tools.demo --output demo
