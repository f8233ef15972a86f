#!/usr/bin/env bash
# Compares the versions that an environment has with the public database of known vulnerabilities (needs the network).
# A package that the database cannot be asked about is an error (--strict), not a pass.
# Not part of the tests: what is known changes from day to day, and a clone must not turn red by itself.
#
#   scripts/check_dependencies.sh [PYTHON]
set -euo pipefail
python=${1:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install -q --disable-pip-version-check pip-audit
"$python" -m pip list --format freeze --exclude-editable >"$scratch/installed.txt"
"$scratch/venv/bin/pip-audit" --strict --no-deps --disable-pip -r "$scratch/installed.txt"
