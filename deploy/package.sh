# Build and check wheel and source distribution, install the wheel alone, ask the shipped student, and write an SBOM.
# Usage: sh deploy/package.sh [PYTHON]. Writes dist/.
set -eu
python=${1:-python3}
work=build/package
rm -rf dist "$work"
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet --disable-pip-version-check build twine cyclonedx-bom
"$work/tools/bin/python" -m build
"$work/tools/bin/twine" check --strict dist/*
"$python" -m venv "$work/base"
"$work/base/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
(cd "$work" && base/bin/distilled-nlu --version && base/bin/distilled-nlu ask --locale de-DE "weck mich um neun uhr")
"$work/tools/bin/cyclonedx-py" environment --output-format JSON --output-file dist/sbom.cdx.json "$work/base"
