# Everything runs in .venv, made from PYTHON (3.11 or newer) and uv.lock. Nothing else is installed anywhere.
#
#   make demo     invert the shipped network, check the inverse, draw digits and their inverses
#   make test     the test suite
#   make sweep    the test suite with the long sweeps
#   make lint     formatting, lint, types, layering, generated pages, lock file
#   make bench    timings
#   make docs     write docs/operators.md, docs/cli.md and docs/coupling.svg again
#   make models   train the networks in models/ and tests/data/newton/ again (installs TensorFlow)
#   make clean    remove .venv, caches and the demo's output

PYTHON ?= python3
JOBS ?= 2

UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv

export UV_PROJECT_ENVIRONMENT := $(CURDIR)/$(VENV)
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Another active environment, or a path to other packages, has no say here. Neither has a wish for no bytecode: every
# process that a test starts would compile the whole package again, which takes longer than what it is started for.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME UV_PYTHON PYTHONDONTWRITEBYTECODE

# A group is installed when its stamp is older than the lock file. --inexact leaves uv and the other groups in place.
SYNC = $(UV) sync --frozen --inexact --quiet --python $(BIN)/python

.PHONY: help demo test sweep lint bench docs models clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.stamp-demo
	$(BIN)/python tools/demo.py

# worksteal: a worker takes whole files, whose tests share what they have made, and what the other has left at the end.
test: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

sweep: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --sweep

lint: $(VENV)/.stamp-lint $(VENV)/.stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/make_docs.py --check
	$(UV) lock --check --quiet --python $(BIN)/python

bench: $(VENV)/.stamp-test
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

docs: $(VENV)/.stamp-test
	$(BIN)/python tools/make_docs.py

# widening, widen_shrink and the decoders read the logits of networks made before them.
models: $(VENV)/.stamp-train
	$(BIN)/python tools/train_mnist.py --model mnist_mlp --out models/
	$(BIN)/python tools/train_mnist.py --model seed_mlp --out models/
	$(BIN)/python tools/train_mnist.py --model mnist_relu --out models/
	$(BIN)/python tools/train_mnist.py --model mnist_lenet --out models/
	$(BIN)/python tools/train_mnist.py --model mnist_residual --out models/
	$(BIN)/python tools/train_small.py --model bijective --out models/
	$(BIN)/python tools/train_small.py --model autoencoder --out models/
	$(BIN)/python tools/train_small.py --model widening --out models/
	$(BIN)/python tools/train_small.py --model widen_shrink --out models/
	$(BIN)/python tools/train_mnist.py --model mnist_tanh --out tests/data/newton/
	$(BIN)/python tools/train_mnist.py --model mnist_wide --out tests/data/newton/
	$(BIN)/python tools/train_decoder.py --model models/mnist_mlp.onnx --out tests/data/newton/
	$(BIN)/python tools/train_decoder.py --model models/mnist_lenet.onnx --out tests/data/newton/
	$(BIN)/python tools/train_surrogate.py --out models/surrogates/

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find onnx_invert tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp-uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "onnx-invert needs Python 3.11 or newer, and $(PYTHON) is no such Python." >&2; \
	      echo "Name another one:  make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'uv==$(UV_VERSION)'
	@touch $@

$(VENV)/.stamp-%: $(VENV)/.stamp-uv pyproject.toml uv.lock
	$(SYNC) --group $*
	@touch $@

.PRECIOUS: $(VENV)/.stamp-%
