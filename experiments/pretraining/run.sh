#!/usr/bin/env bash
# The weights that come with the package; the folder of Tiny ImageNet is the argument: run.sh path/to/tiny-imagenet-200
set -euo pipefail
python "$(dirname "$0")/pretrain.py" "$@"
