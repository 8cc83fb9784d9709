# make search: set-up, then a real search on this machine.   make test: the tests.
PYTHON ?= python3
ARGS ?=

.venv/ready: pyproject.toml clusters/constraints-cpu.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c clusters/constraints-cpu.txt -e ".[cpu,demo,test]"
	.venv/bin/python -m effir_dist.pydocs
	touch $@

.PHONY: search test lint
search: .venv/ready
	.venv/bin/python -m effir_dist.search $(ARGS)

test: .venv/ready
	.venv/bin/python -m pytest $(ARGS)

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
