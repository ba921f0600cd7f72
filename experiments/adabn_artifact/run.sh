#!/usr/bin/env bash
# Every row of Table 4 with no adaptation, AdaBN, and what the release evaluates as AdaBN: ten users, three seeds.
# On the photographs; IMAGES=mit_indoor for the paper's data (a GPU's work), by the same command.
set -euo pipefail
cd "$(dirname "$0")/../.."
IMAGES=${IMAGES:-photos}
OUT=${OUT:-outputs/adabn_artifact/$IMAGES}
python -m dua_lightning +experiment=transprior data/images="$IMAGES" model=vgg11_bn method=adabn_artifact \
  'seed=[1,2,3]' paths.output_dir="$OUT" "$@"
python experiments/adabn_artifact/analyse.py "$OUT"
