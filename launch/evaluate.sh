#!/usr/bin/env bash
# Evaluate a model on recordings and on the simulated tabletop, and draw one page about both.
#
#   launch/evaluate.sh runs/evaluation bridge/ demos/          # the bundled model, CPU
#   MODEL=runs/bundled/aid/model TABLETOP=runs/bundled/tabletop.zarr launch/evaluate.sh runs/eval bridge/
#   PRIOR=runs/bundled/prior/model launch/evaluate.sh ...      # beside it, without text
#   DEVICES=8 METRICS=psnr,ssim,lpips,motion,fvd,kvd launch/evaluate.sh runs/eval bridge/
#
# Run it again to go on after a stop. Without TABLETOP, episodes that no model has seen are made.
set -euo pipefail
run=${1:?a folder for the run}
shift
model=${MODEL:-bundled}
metrics=${METRICS:-psnr,ssim,motion}
split=${SPLIT:-held-out}
tabletop=${TABLETOP:-$run/tabletop.zarr}
mkdir -p "$run"
if [ -z "${TABLETOP:-}" ]; then
  # A seed of its own, so that none of these was trained on.
  aid-robot simulate -o "$tabletop" --episodes "${EPISODES:-200}" --size 128 --frames 16..40 \
    --alternatives 4 --seed 917
  split_tabletop=all
fi
common=(--predictor "model=$model" --predictor copy-last-frame --predictor flow
  --metrics "$metrics" --devices "${DEVICES:-1}" --size "${SIZE:-64}")
[ -z "${PRIOR:-}" ] || common+=(--predictor "prior=prior:$PRIOR")
aid-robot eval run "$tabletop" --protocol tabletop "${common[@]}" --scales "${SCALES:-0,1,3}" \
  --split "${split_tabletop:-held-out}" -o "$run/tabletop"
pages=("$run/tabletop")
if [ $# -gt 0 ]; then
  aid-robot eval run "$@" --protocol bridge "${common[@]}" --set clips_per_episode=2 \
    --split "$split" -o "$run/recorded"
  pages+=("$run/recorded")
fi
aid-robot eval report "${pages[@]}" -o "$run/report.html"
