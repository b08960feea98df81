# make distill      from nothing to synthetic users and their test metrics
# make test         the tests
# make test-paper   figures of the paper and the README on the paper's own splits, in minutes; PAPER_DATA=data
# make test-large   factorisations of 16,000 rows, whole benchmarks: 10 minutes, 8 GiB of memory
# make fuzz         random attacks on all scripts, in a few minutes; ARGS="--seed=7 --attacks=500"
# make lint         ruff: the code's format and its rules
# make bench        speed: each fast routine beside a plain version of it, and growth with the data
# make results      the README's table and figures, from nothing: hours; killed, it continues where it was
# make setup        .venv with the pinned requirements, no more
#
# ARGS go to the script:      make distill ARGS="--user_support=100 --seed=7"
# PYTHON is .venv's python:   make setup PYTHON=python3.12

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& echo $$python && break; done)
VENV = .venv/bin/python
# --no-deps: neural-tangents names TensorFlow (2 GB), which is not needed. requirements.txt is complete.
PIP_INSTALL = $(VENV) -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: setup distill test test-paper test-large fuzz lint bench results

setup: .venv/core.done

.venv/core.done: requirements.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: no Python 3.11 to 3.14 with its venv module was found: make setup PYTHON=..." >&2; exit 1; fi
	@echo "making .venv with $(PYTHON) and requirements.txt (about 1 GB, a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

.venv/dev.done: .venv/core.done requirements-dev.txt
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# prep.sh takes the first data set that it can download, and says so if it is not ml-1m.
distill: .venv/core.done
	@dataset=$$(./prep.sh ml-1m ml-100k) && $(VENV) distill.py --dataset=$$dataset $(ARGS) && echo && \
	echo "Next, with the run's folder from above as RUN:" && \
	echo "  $(VENV) recommend.py --run=RUN --user=1 --explain" && \
	echo "  $(VENV) report.py --run=RUN        # a page to open in a browser" && \
	echo "  $(VENV) infinite_ae.py --dataset=$$dataset" && \
	echo "The README's other commands need --dataset=$$dataset, too, unless it is ml-1m."

test: .venv/dev.done
	@$(VENV) -m pytest $(ARGS)

test-paper: .venv/dev.done
	@$(VENV) -m pytest -m paper -n 0 -rs $(ARGS)

test-large: .venv/dev.done
	@$(VENV) -m pytest -m large -n 0 $(ARGS)

fuzz: .venv/dev.done
	@$(VENV) tests/fuzz.py $(ARGS)

lint: .venv/dev.done
	@.venv/bin/ruff check --quiet && .venv/bin/ruff format --quiet --check

bench: .venv/core.done
	@$(VENV) bench.py $(ARGS)

results: .venv/core.done
	@$(VENV) compare.py --run $(ARGS)
