#!/usr/bin/env bash
# Tables 2, 3 and 4, AdaBN as released and the gain ledger on MiniPlaces, MobileNetV2 with ImageNet weights; three seeds.
# DATA is the folder with miniplaces/ and the weights; what they lack is downloaded. It goes on where it was stopped.
# Settings may follow; README.md has those of the narrow VGG11-BN.
set -euo pipefail
cd "$(dirname "$0")/../.."
DATA=${DATA:-data}
OUT=${OUT:-outputs/scenes}
# One draw, fewer extra pictures and a third of the epochs than the paper, and adapted rows after the last task alone: see
# the plan in README.md.
for given in "transprior data.extra_per_task=0" "catprior data.images_per_preference=50"; do
  read -r benchmark extra <<< "$given"
  python -m dua_lightning +experiment=scenes data="$benchmark" "$extra" method=scenes 'seed=[1,2,3]' threads=1 \
    data.iterations=1 adapt_after=last_task trainer.max_epochs=10 optimizer.lr=3.0e-3 suggested.penalty_limit=333 \
    paths.data_dir="$DATA" paths.output_dir="$OUT/$benchmark" "$@"
  python -m dua_lightning ledger "$OUT/$benchmark"
  python experiments/scenes/analyse.py "$OUT/$benchmark"
  python experiments/adabn_artifact/analyse.py "$OUT/$benchmark"
done
