#!/bin/sh
# Write the locks that docker/Dockerfile installs: production dependencies, `fast`, `cloud` and `timm`,
# at the versions of constraints.txt, with hashes, for Python 3.11 on Linux. Needs uv (`pip install uv`).
set -eu
cd "$(dirname "$0")/.."
lock() {
    uv pip compile "$@" --constraints constraints.txt --generate-hashes --python-version 3.11 \
        --python-platform x86_64-manylinux_2_28 --no-annotate --quiet \
        --custom-compile-command docker/lock.sh
}
lock pyproject.toml --extra fast --extra cloud --extra timm --output-file docker/requirements.lock
echo setuptools | lock - --output-file docker/build.lock
