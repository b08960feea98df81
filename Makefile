# make distill   from nothing to distilled users and their test metrics
# make test      the tests
# make lint      the code's format, by ruff
# make bench     the speed figures of the README
# make results   the README's table and figure, from nothing: hours, in pieces that go on where they were
# make setup     only .venv with the pinned requirements
#
# ARGS reach the script: make distill ARGS="--user_support=100 --seed=7"
# PYTHON chooses the interpreter of .venv: make setup PYTHON=python3.12

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& echo $$python && break; done)
VENV = .venv/bin/python
# Without what neural-tangents names beside what it needs: TensorFlow, of 2 GB. requirements.txt has everything that is needed.
PIP_INSTALL = $(VENV) -m pip install --quiet --disable-pip-version-check --no-deps

.PHONY: setup distill test lint bench results

setup: .venv/core.done

.venv/core.done: requirements.txt
	@if [ -z "$(PYTHON)" ]; then echo "make: Python 3.11 to 3.14 with its venv module is needed, and none was found" >&2; exit 1; fi
	@echo "making .venv with $(PYTHON) and requirements.txt (about 1 GB, a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

.venv/dev.done: .venv/core.done requirements-dev.txt
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# The data set is the first that can be had; prep.sh says so if it is not the first one named.
distill: .venv/core.done
	@dataset=$$(./prep.sh ml-1m ml-100k) && $(VENV) distill.py --dataset=$$dataset $(ARGS) && echo && \
	echo "The data set is $$dataset: the README's other commands take --dataset=$$dataset, and its figures to expect are under \"What comes out\"." && \
	echo "Next, with the run's folder from above:" && \
	echo "  $(VENV) recommend.py --run=RUN --user=1 --explain" && \
	echo "  $(VENV) report.py --run=RUN        # a page to open in a browser" && \
	echo "  $(VENV) infinite_ae.py --dataset=$$dataset"

test: .venv/dev.done
	@$(VENV) -m pytest $(ARGS)

lint: .venv/dev.done
	@.venv/bin/ruff check --quiet && .venv/bin/ruff format --quiet --check

bench: .venv/core.done
	@$(VENV) bench.py $(ARGS)

results: .venv/core.done
	@$(VENV) compare.py --run $(ARGS)
