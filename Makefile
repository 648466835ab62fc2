# The two commands a newcomer needs are `make run` and `make test`. Every target sets up .venv
# first, which takes minutes once and nothing afterwards.
#
#   DEVICE=gpu    the GPU lock file instead of the CPU one (requirements/gpu.txt)
#   PYTHON=...    another Python 3.11 or 3.12 than the first on the path
#   STUDY=...     another study of config/studies for `make study` and `make watch`
#   ARGS=...      further arguments of snakemake, criticflow watch or pytest
#   WORKERS=...   how many tests run side by side (2; each may need 6 GiB)

DEVICE ?= cpu
STUDY ?= critic-value
ARGS ?=
WORKERS ?= 2
LOCK := requirements/$(DEVICE).txt
BIN := .venv/bin
STAMP := .venv/.complete-$(DEVICE)

ifndef PYTHON
PYTHON := $(firstword $(foreach name,python3.12 python3.11,\
    $(shell $(name) -c 'import sys; print(sys.executable)' 2>/dev/null)) python3)
endif
SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
SAME := import sys; sys.exit(sys.version_info[:2] != tuple(map(int, sys.argv[1].split("."))))
# Letters of any alphabet (bytes outside of ASCII), digits, and signs that no shell takes for its own.
PLAIN := A-Za-z0-9/._+@%:,=\n\200-\377-
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input

# A file of tests stays together, for what its tests share. Those that take long come first.
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Live progress on a terminal, plain lines elsewhere.
LIVE = $$([ -t 2 ] && [ "$$TERM" != dumb ] && echo --logger rich)

.DEFAULT_GOAL := help
.PHONY: help setup run study watch test test-quick test-slurm test-image test-all lint format lock bench-convert clean

help:  ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' $(MAKEFILE_LIST)

run: $(STAMP)  ## run the study (config/config.yaml) and make results/report.html
	@$(BIN)/snakemake $(LIVE) --cores all $(ARGS)

study: $(STAMP)  ## run the CPU study (config/studies/critic-value.yaml) in studies/: hours, it resumes
	@$(BIN)/snakemake $(LIVE) --cores all --keep-going --directory studies/$(STUDY) \
	    --configfile config/studies/$(STUDY).yaml $(ARGS)

watch: $(STAMP)  ## show how far that study is, training by training; Ctrl-C closes it
	@$(BIN)/criticflow watch --directory studies/$(STUDY) \
	    --configfile config/studies/$(STUDY).yaml $(ARGS)

test: lint  ## lint, unit tests, workflow tests and a small run of the whole pipeline
	@$(PYTEST) -m "not slow" $(ARGS)

test-quick: lint  ## lint, unit tests that start no engine, and a plan of the study: for every save
	@$(PYTEST) -m "not slow and not vllm and not seconds" tests/unit $(ARGS)
	@$(BIN)/snakemake --cores all --dry-run --quiet --directory $$(mktemp -d)

test-slurm: $(STAMP)  ## the pipeline and faults on a real Slurm, brought up here (Debian, root)
	@tests/slurm/with_slurm.sh $(abspath $(BIN))/python -m pytest -m "not slow" tests/slurm $(ARGS)

test-image:  ## the image of Dockerfile, built by buildah, and test-quick in it (Debian, root)
	@tests/image/build_and_test.sh

test-all: lint  ## the same, and the tests that take long, some of which want the machine to themselves
	@$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## check format and lint
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/snakefmt --check workflow >/dev/null 2>&1 || $(BIN)/snakefmt --compact-diff --check workflow
	@$(BIN)/python -m pytest --quiet tests/workflow/test_lint.py

format: $(STAMP)  ## format all code
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/snakefmt workflow

bench-convert: $(STAMP)  ## measure the checkpoint converter
	@$(BIN)/python benchmarks/bench_convert.py $(ARGS)

setup: $(STAMP)  ## only set up .venv

# Plain pip does it. torch comes first, with whatever its build needs: a CPU wheel brings no CUDA,
# and where there is only the CUDA build it brings its libraries. All else comes without looking
# for dependencies, since the lock names them and leaves out what the build of torch decides.
# `.installing` stands until all is well; what it marks is made again from nothing.
$(STAMP): $(LOCK) pyproject.toml
	@[ -z "$$(pwd | LC_ALL=C tr -d '$(PLAIN)')" ] || { echo "error: $$(pwd): Snakemake does not quote" \
	    "the path of its Python: move the project to a path without spaces and quotes" >&2; exit 2; }
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { echo "error: $(PYTHON) is not Python 3.11 or" \
	    "3.12: install one of them, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@if [ -e .venv/.installing ] || { [ -x $(BIN)/python ] && ! $(BIN)/python -c '$(SAME)' \
	    "$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; }; then \
	    echo "set-up: removing an unfinished or other .venv"; rm -rf .venv; fi
	@echo "set-up: .venv with $$($(PYTHON) --version)"
	@mkdir -p .venv && touch .venv/.installing && rm -f .venv/.complete-*
	@$(PYTHON) -m venv .venv
	@echo "set-up: torch $$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' $(LOCK)) (1 of 3)"
	@$(PIP) "torch==$$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' $(LOCK))"
	@echo "set-up: $$(grep -c '^[a-z0-9].*==' $(LOCK)) locked packages (2 of 3, minutes)"
	@$(PIP) --no-deps -r $(LOCK)
	@echo "set-up: criticflow itself (3 of 3)"
	@$(PIP) --no-deps -e .
	@rm .venv/.installing && touch $@

lock:  ## resolve requirements/*.txt anew
	@command -v uv >/dev/null || { echo "error: make lock needs uv: pip install uv" >&2; exit 2; }
	@for device in cpu gpu; do \
	    echo "lock: requirements/$$device.txt"; \
	    uv pip compile -q --universal --python-version 3.11 \
	        --override requirements/$$device.overrides \
	        --extra $$device --extra slurm --extra dev pyproject.toml \
	        -o requirements/$$device.txt || exit 1; \
	done

clean:  ## remove results, logs and Snakemake's records; .venv stays
	rm -rf results logs .snakemake
