# Everything here needs only make and Python 3.11 or newer; what else is needed is installed, pinned, and said.
# Debian's own interpreter starts it: the one first on PATH may be a shim or an environment of something else.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
TOOLS := PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m tools
# Arguments for one part, e.g. make unit ARGS='-k networks' or make sanity ARGS=core-2.19
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo demo-down test lint nix sanity unit molecule bench faults profiles volumes docs dist pins clean

help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

demo: ## Two guests on a host: made, made again without a change, back after a reboot
	@$(TOOLS) demo

demo-down: ## Take the demo away
	@$(TOOLS) demo-down

test: ## All that CI runs: lint, nix, unit, sanity, molecule
	@$(TOOLS) test

lint: ## Read the sources: types, style, documentation, YAML, shell
	@$(TOOLS) lint

nix: ## The static flake evaluated with stand-ins for nixpkgs and microvm.nix
	@$(TOOLS) nix $(ARGS)

sanity: ## ansible-test sanity on each core that this machine can run
	@$(TOOLS) sanity $(ARGS)

unit: ## Unit tests, those of plugins on each core that this machine can run
	@$(TOOLS) unit $(ARGS)

molecule: ## Molecule scenarios on real hosts; e.g. ARGS='converge -s net'
	@$(TOOLS) molecule $(ARGS)

bench: ## Times beside those of loops, with 100 guests and more: build/bench.json; ARGS=--help tells more
	@$(TOOLS) bench $(ARGS)

faults: ## Modules killed, and calls that fail, at each moment: build/faults.json; e.g. ARGS='--every 5 create'
	@$(TOOLS) faults $(ARGS)

profiles: ## Docker swarms and a SPICE desktop with real engines and viewers: build/profiles.json; e.g. ARGS='swarm'
	@$(TOOLS) profiles $(ARGS)

volumes: ## Snapshots of thin logical volumes, in a machine of their own: build/volumes.json; e.g. ARGS='trixie'
	@$(TOOLS) volumes $(ARGS)

docs: ## The documentation as HTML: build/docs/html
	@$(TOOLS) docs

dist: ## The archive for Galaxy, installed and used once: build/microvm-fleet-VERSION.tar.gz
	@$(TOOLS) dist

pins: ## Choose the versions of the Python packages anew
	@$(TOOLS) pins

clean: ## Remove what was built in this checkout
	rm -rf build
