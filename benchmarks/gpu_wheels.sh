#!/usr/bin/env bash
# Collect the packages that a GPU machine with torch, torchvision and Triton but without network may
# lack, for Python 3.12 on x86-64 Linux, in a folder that git ignores. Needs this project's
# environment.
#     benchmarks/gpu_wheels.sh
# There:
#     pip install --no-index --no-deps --target /tmp/site .whl/*.whl
#     PYTHONPATH=/tmp/site:. python benchmarks/gpu.py
set -euo pipefail
cd "$(dirname "$0")/.."
pip download --quiet --no-deps --constraint constraints.txt --dest .whl \
  --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform=manylinux_2_{34,28,27,17}_x86_64 --platform=manylinux2014_x86_64 \
  annotated-types braceexpand click einops hjson iniconfig isal msgpack numpy packaging pillow \
  pluggy psutil py-cpuinfo pydantic pydantic_core pygments pytest pyyaml simplejpeg tqdm \
  typing-extensions typing-inspection webdataset
# A source package. Its wheel is the same for every Python, because no op is compiled.
DS_BUILD_OPS=0 pip wheel --quiet --no-deps --no-build-isolation --constraint constraints.txt \
  --wheel-dir .whl deepspeed
du -sh .whl
