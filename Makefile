# Set-up needs Python 3.11+ and make, nothing else. Stamps make second runs instant and offline:
# a step runs again only when what it was made from has changed.

UV_VERSION := 0.13.9
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$python"; break; }; done)
UV := .tools/bin/uv
RUN := .venv/bin/
ARGS ?=
COUNT ?= 1000000
ROUNDS ?= 5
MINUTES ?= 75
SEED ?= 7

# Other projects' modules and settings must not leak into this one's environment.
unexport PYTHONPATH
unexport PYTHONHOME
unexport VIRTUAL_ENV
unexport CONDA_PREFIX

.DEFAULT_GOAL := help
.PHONY: setup demo test slow chaos soak fuzz lint type bench docs lock clean help

setup: .venv/ready.stamp .venv/kafka.stamp  ## build .venv and fetch Kafka's jars (done by every other target, too)

demo: setup  ## run flights through Kafka, a model and ClickHouse, and stay up (ARGS="--events 50000 --exit")
	$(RUN)tidemill demo $(ARGS)

test: setup  ## run all tests, with the real broker and the real store (ARGS="-k name")
	$(RUN)python -m pytest -m "not slow" $(ARGS)

slow: setup  ## run the long tests that make test leaves out
	$(RUN)python -m pytest -m slow $(ARGS)

chaos: setup  ## let everything die in seeded rounds and check that nothing is lost (ROUNDS=5 SEED=7)
	$(RUN)python -m tests.chaos.rounds --rounds $(ROUNDS) --seed $(SEED) $(ARGS)

soak: setup  ## let everything run for long and judge what grew in the last 60 % (MINUTES=75)
	$(RUN)python -m tests.chaos.soak --minutes $(MINUTES) $(ARGS)

fuzz: setup  ## give every door that takes bytes from outside a million inputs (COUNT=1000000 SEED=7)
	$(RUN)python -m tests.fuzz --count $(COUNT) --seed $(SEED) $(ARGS)

lint: setup  ## check style, formatting and who may import whom
	$(RUN)ruff check
	$(RUN)ruff format --check
	$(RUN)lint-imports

type: setup  ## check types
	$(RUN)mypy

bench: setup  ## measure speed and latency, against the committed ratios (15 minutes, alone)
	$(RUN)tidemill bench all $(ARGS)

docs: setup  ## build the site of the documentation, readable without a network (build/site/index.html)
	NO_MKDOCS_2_WARNING=1 $(RUN)mkdocs build --strict --quiet

lock: $(UV)-$(UV_VERSION).stamp  ## resolve requirements.lock anew from pyproject.toml
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-header --no-emit-index-url --no-emit-find-links --extra dev \
		--output-file requirements.lock pyproject.toml
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links --extra onnx --extra s3 --extra traces \
		--constraint requirements.lock --output-file deploy/requirements.lock pyproject.toml

clean:  ## remove the environment and every cache; data in .tidemill stay
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(UV)-$(UV_VERSION).stamp:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "could not find Python 3.11 or newer: install it, or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@"$(PYTHON)" -m venv --clear .tools || { \
		echo "could not make a virtual environment: on Debian and Ubuntu, install python3-venv" >&2; \
		exit 1; }
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

.venv/ready.stamp: $(UV)-$(UV_VERSION).stamp requirements.lock pyproject.toml
	@test -x .venv/bin/python || $(UV) venv --quiet --python "$(PYTHON)" .venv
	$(UV) pip sync --python .venv/bin/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv/kafka.stamp: .venv/ready.stamp streams/local/kafka_jars.lock.txt
	$(RUN)python -P -m streams.local.record
	@touch $@
