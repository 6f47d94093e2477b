#!/usr/bin/env bash
# Makes the virtual environment $VENV and installs this checkout into it, editable.
# Usage: PYTHON=python3 VENV=.venv TORCH_VERSION=... TORCH_CPU_INDEX=... setup-venv.sh REQUIREMENT
set -euo pipefail
requirement=$1

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "schedlab needs Python >= 3.11, got $("$PYTHON" --version 2>&1);" \
        "try: make PYTHON=python3.12" >&2
    exit 2
fi

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
# --no-compile: compiling all 12,000 files ahead takes half of the installation, and Python compiles
# the few that are imported by itself.
pip_install() {
    "$VENV/bin/python" -m pip --disable-pip-version-check install --quiet --no-compile "$@"
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

# True if the index answers within a few seconds; any failure (offline, proxy, firewall) is "no".
reachable() {
    "$VENV/bin/python" - "$1" <<'PY' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=5).close()
PY
}

# torch first, by itself: once it is there, no other requirement can pull in another build.
if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
    if has_gpu; then
        echo "GPU found: installing torch" >&2
        pip_install torch
    elif reachable "$TORCH_CPU_INDEX" && pip_install \
        --index-url "$TORCH_CPU_INDEX" "torch==$TORCH_VERSION"; then
        echo "no GPU: installed the CPU build of torch $TORCH_VERSION" >&2
    else
        echo "no GPU: installing torch $TORCH_VERSION" >&2
        pip_install "torch==$TORCH_VERSION"
    fi
fi

echo "installing schedlab" >&2
pip_install --editable "$requirement"
