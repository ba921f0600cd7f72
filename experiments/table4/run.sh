#!/usr/bin/env bash
# Table 4: VGG11-BN with the server's batch norm, AdaBN and AdaBN-S. IMAGES=photos runs it offline (a stand-in).
# fidelity=released added to the command runs what the authors' code does.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-outputs/table4}
for benchmark in catprior transprior; do
  python -m dua_lightning -m +experiment=$benchmark model=vgg11_bn method=table4 \
    data/images="${IMAGES:-mit_indoor}" paths.output_dir="$OUT/$benchmark" "$@"
done
python -m dua_lightning.report.published experiments/table4/expected.csv "$OUT"/*
