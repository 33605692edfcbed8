# make demo   installs the package into .venv and codes the demo photograph
# make test   installs all extras it needs and runs the tests        make lint   ruff, pyright, import-linter
# make docs   writes the tables of README.md and docs/ again from benchmarks/results
# make site   builds the documentation as a website into site/
# make quality KODAK=images AIGC=images [VVC=bitstreams]   measures every quality table again; what is missing is named and left out
#   (VVC holds kodak/ and aigc/; CODECS="preview nano_pixel vvc" measures fewer; the rest is decoded from the cache or known by its hash)
# make conformance   reads the golden files under every setting, with the torch that is installed and with the oldest we support
# make lite   writes the wheel of priorcodec-lite, the reader without torch, into dist/        make web   the page for browsers
# make audit  known vulnerabilities of all dependencies, where a service can be asked, and runs/sbom.cdx.json
# Needs Python 3.11 to 3.14, git and make. Another interpreter: make PYTHON=/path/to/python3.13 test

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := train,bench,test
STAMP := $(VENV)/installed
BASE := $(VENV)/installed-without-extras
OLDEST := $(VENV)/oldest
FIND := for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1 && { echo $$p; break; }; done
PYTHON ?= $(shell $(FIND))

.PHONY: demo test lint docs site conformance audit quality install clean web lite
.DELETE_ON_ERROR:

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(BASE))
	$(BIN)/priorcodec demo --force

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/python benchmarks/readme.py

site: $(STAMP)
	$(BIN)/python -c 'import mkdocs' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

conformance: $(STAMP) $(OLDEST)/installed
	PYTHONPATH=. $(BIN)/python tests/golden/check.py
	PYTHONPATH=. $(OLDEST)/bin/python tests/golden/check.py

$(OLDEST)/installed: $(STAMP)
	test -x $(OLDEST)/bin/python || $(BIN)/python -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet torch==2.6.0 'numpy>=2' constriction pillow pluggy safetensors simplejpeg
	touch $@

audit: $(STAMP)
	@$(BIN)/python .ci/audit $(VENV)/audit $(BIN)/python runs/sbom.cdx.json

CODECS ?= preview perceptual nano_pixel nano_pixel:denoiser=none nano_pixel:start=0.5 nano_dit vvc avif jxl
QUALITY = resnet_lpips resnet_dists resnet_frechet ssimulacra2 msssim psnr lite1_lpips lite1_dists lite1_frechet stlpips_alex
quality: $(STAMP)
	@test -n "$(KODAK)$(AIGC)" || { echo "make quality wants images: make quality KODAK=FOLDER AIGC=FOLDER [VVC=FOLDER of kodak/ and aigc/]" >&2; exit 1; }
	$(if $(KODAK),$(BIN)/python benchmarks/rd.py kodak $(KODAK) $(if $(VVC),--vvc $(VVC)/kodak) --codecs $(CODECS) --metrics $(QUALITY) \
		--qualities 1 3 5 7 9 --between 0.02 0.25 --workers $$(nproc))
	$(if $(AIGC),$(BIN)/python benchmarks/rd.py aigc $(AIGC) $(if $(VVC),--vvc $(VVC)/aigc) --codecs $(CODECS:avif=avif:1,10,20,35) \
		--metrics $(QUALITY) --qualities 1 3 5 7 9 --between 0.02 0.25 --workers $$(nproc))
	$(BIN)/python benchmarks/readme.py

install: $(STAMP)

# Installed again only when the content of pyproject.toml differs from what the stamp holds.
$(STAMP) $(BASE): pyproject.toml
	@if ! cmp -s pyproject.toml $@; then set -e; \
		test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: install one, or make PYTHON=/path/to/it" >&2; exit 1; }; \
		test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
		echo "installing priorcodec and what it needs into $(VENV): some minutes, and with the torch of CUDA about 6 GB"; \
		$(BIN)/python -m pip install --quiet --upgrade pip; \
		$(BIN)/python -m pip install --quiet --editable '.$(if $(filter $@,$(STAMP)),[$(EXTRAS)])'; \
		$(if $(filter $@,$(STAMP)),$(BIN)/python benchmarks/yardstick.py || true;) \
	fi
	@cp pyproject.toml $@

# The page that decodes files in a browser: models, and onnxruntime-web from npm. Serve the folder web/ from anywhere.
web: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[export]'
	$(BIN)/priorcodec export web/models --half --force
	npm install --prefix web --no-audit --no-fund --no-package-lock
	@echo "serve it here: $(BIN)/python -m http.server --directory web"

# priorcodec-lite: numpy and onnxruntime instead of torch. The wheel holds the default backbone's graphs.
lite: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[export]'
	$(BIN)/priorcodec export lite/priorcodec_lite/models --half --force
	rm -rf lite/build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist ./lite
	@echo "install it anywhere: pip install dist/priorcodec_lite-*.whl"

clean:
	rm -rf $(VENV) build dist site *.egg-info lite/build lite/*.egg-info
