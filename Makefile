PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PEERS := .venv-bench/.installed
SITE := .venv-docs/.installed

.PHONY: install demo bench docs figures test test-slow test-processors lint types clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements/torch.txt requirements/runtime.txt requirements/dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metacontrast needs Python 3.11 or newer; name one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/runtime.txt -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@

demo: $(INSTALLED)
	$(BIN)/metacontrast demo

bench: $(INSTALLED) $(PEERS)
	$(BIN)/python benchmarks/speed.py --peers .venv-bench/bin/python

$(PEERS): requirements/torch.txt requirements/bench.txt
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	.venv-bench/bin/pip install --quiet --disable-pip-version-check -r requirements/bench.txt
	.venv-bench/bin/pip install --quiet --disable-pip-version-check -c requirements/torch.txt -c requirements/bench.txt \
	  learn2learn==0.2.0 || echo "learn2learn does not install with this Python; the table will say so"
	touch $@

docs: $(SITE)
	.venv-docs/bin/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "open docs/_build/html/index.html"

$(SITE): pyproject.toml requirements/torch.txt requirements/runtime.txt requirements/docs.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	.venv-docs/bin/pip install --quiet --disable-pip-version-check -r requirements/runtime.txt -r requirements/docs.txt
	.venv-docs/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@

figures: $(INSTALLED)
	$(BIN)/metacontrast figure all --redraw

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

test-processors: $(INSTALLED)
	$(BIN)/python tests/processors.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/basedpyright

clean:
	rm -rf .venv .venv-bench .venv-docs docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
