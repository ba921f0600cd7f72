#!/usr/bin/env bash
# The weights that come with the package; the folder of Tiny ImageNet is the argument: run.sh path/to/tiny-imagenet-200
set -euo pipefail
cd "$(dirname "$0")/../.."
python experiments/pretraining/pretrain.py "$@"
