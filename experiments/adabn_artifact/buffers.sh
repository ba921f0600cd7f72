#!/usr/bin/env bash
# Control: how much of AdaBN's gain is the merged model's own statistics put right, without any user's data?
# MAS-IMM with each rule for the batch-norm statistics of a merged model. After run.sh, whose experts the store has.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/adabn_artifact}
for rule in server task mean; do
  python -m dua_lightning +experiment=transprior data/images="${IMAGES:-photos}" model=vgg11_bn method=imm importance=mas \
    'seed=[1,2,3]' statistics=$rule paths.output_dir="$OUT/buffers_$rule" "$@"
done
python -m dua_lightning ledger "$OUT/${IMAGES:-photos}" "$OUT"/buffers_* --out "$OUT"
