# Each target does its own set-up, in .venv. Needs: make and Python 3.11, 3.12 or 3.13 (make PYTHON=python3.12 ...).

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest -q -n 2 --dist loadfile
ON_EVERY_BACKEND := $(addprefix tests/test_,engine.py layer_choice.py evidence.py keras_tail.py keras_rules.py \
	attention_keras.py keras_deeplift.py relevance_keras.py linear_heads.py)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check format pages docs bench train clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

demo: .venv/with-tensorflow-cpu ## Explain a photograph of a cat with four methods; the pictures go to camlucida-out
	$(BIN)/camlucida explain sample:cat --method cam --method grad-cam --method grad-cam++ --method score-cam

# Keras runs on one backend in a process: all tests under TensorFlow, then those of its engines under the others. JAX
# compiles many tiny programs for them, each run a few times.
test: .venv/with-dev ## Run the tests, and those of Keras's engines on JAX and torch as well
	KERAS_BACKEND=tensorflow $(PYTEST)
	KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) $(ON_EVERY_BACKEND)
	KERAS_BACKEND=torch $(PYTEST) $(ON_EVERY_BACKEND)

check: .venv/with-dev ## Check format, lint, types and import directions
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/with-dev ## Format the code and mend what lint can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

pages: .venv/with-dev ## Write the pages of methods and metrics from their registries. ARGS=--pictures draws as well
	$(BIN)/python docs/method_pages.py $(ARGS)
	$(BIN)/python docs/metric_pages.py

docs: .venv/with-docs ## Build the documentation's site; it goes to build/site
	$(BIN)/mkdocs build --strict --quiet

bench: .venv/with-dev ## Measure time and memory; needs an idle machine. ARGS="..." goes to benchmarks/run.py
	$(BIN)/python benchmarks/run.py $(ARGS)

train: .venv/with-tensorflow-cpu ## Train a network as MODEL_CARD.md's first step (an hour); TRAIN=... TEST=...
	@test -n "$(TRAIN)" -a -n "$(TEST)" || \
		{ echo "usage: make train TRAIN=cifar10_train.zip TEST=cifar10_test.zip" >&2; exit 1; }
	$(BIN)/python training/train_cifar10.py --train "$(TRAIN)" --test "$(TEST)" $(ARGS)

clean: ## Remove .venv, caches and build outputs
	rm -rf .venv .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .venv/with-EXTRA: the package itself, editable, with the requirements of that extra at the tested versions.
.venv/with-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Camera Lucida needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is not: make PYTHON=python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear .venv
	@echo "Installing camlucida[$*] into .venv: a few minutes the first time"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@
