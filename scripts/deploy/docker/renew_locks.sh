#!/usr/bin/env bash
# Resolves the packages of the images again: the newest versions that pyproject.toml allows, with the hash of each file.
#   pip install uv && scripts/deploy/docker/renew_locks.sh
# UV_FIND_LINKS=FOLDER uses the wheel of torch's CPU build in a folder instead of that of PyTorch's index.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=scripts/deploy/docker
torch="2.13.0"  # of the image without CUDA; that with CUDA has the newest one on PyPI
index=(--index https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
if [ -n "${UV_FIND_LINKS:-}" ]; then index=(); fi
options=(--extra serve --extra feedback --extra s3 --extra onnx --extra kafka --python-version 3.11
  --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --quiet --upgrade
  --custom-compile-command "scripts/deploy/docker/renew_locks.sh")
uv pip compile pyproject.toml "${options[@]}" "${index[@]}" --constraint <(echo "torch==$torch+cpu") \
  -o $here/requirements.cpu.lock
env -u UV_FIND_LINKS uv pip compile pyproject.toml "${options[@]}" -o $here/requirements.gpu.lock
# What the image of the function has beside these.
uv pip compile <(echo "awslambdaric>=4.2,<5") --python-version 3.11 --python-platform x86_64-manylinux_2_28 --upgrade \
  --generate-hashes --no-annotate --no-emit-find-links --quiet --no-header -o scripts/deploy/lambda/requirements.lock
grep -c '==' $here/requirements.*.lock
