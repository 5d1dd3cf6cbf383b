#!/usr/bin/env bash
# Make the bundled model: simulate, train every stage, measure, install. Run it again to go on.
#
#   launch/train_bundled.sh runs/bundled                              # CPU, hours
#   RECIPE=bundled_gpu launch/train_bundled.sh runs/bundled           # one GPU
#   EPISODES=50 RECIPE=debug INSTALL=0 launch/train_bundled.sh /tmp/try
#
# Further arguments go to `aid-robot train`, such as --set aid.minutes=240.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
run=${1:?a folder for the run}
shift
store=${STORE:-$run/tabletop.zarr}
mkdir -p "$run"
# Four tasks from each start, so that only the instruction tells which future is meant.
[ -n "${STORE:-}" ] || aid-robot simulate -o "$store" --episodes "${EPISODES:-20000}" \
  --size 128 --frames 16..40 --alternatives 4 --failures 0.05 --seed 0
aid-robot train "${RECIPE:-bundled}" -o "$run" --set "data.store=$store" "$@"
# Who judges goals as text; SUCCESS_MINUTES=0 leaves it out, as a try-out does.
[ "${RECIPE:-bundled}" = debug ] && minutes=0 || minutes=30
minutes=${SUCCESS_MINUTES:-$minutes}
if [ "$minutes" != 0 ]; then
  aid-robot train-success "$store" -o "$run/success_true" --model "$run/aid/model" \
    --minutes "$minutes"
  # Then on scenes of its own: the ends that the model imagines for them look as a planner sees them.
  aid-robot simulate -o "$run/judged.zarr" --episodes "${SUCCESS_EPISODES:-800}" \
    --size 128 --frames 16..40 --alternatives 4 --failures 0.05 --seed 23
  aid-robot train-success "$run/judged.zarr" -o "$run/success" --start "$run/success_true" \
    --model "$run/aid/model" --imagine --minutes "$minutes"
  cp -r "$run/success" "$run/aid/model/"
fi
aid-robot eval run "$store" --protocol own --predictor "model=$run/aid/model" \
  --predictor copy-last-frame --predictor "prior=prior:$run/prior/model" --clips "${CLIPS:-200}" \
  -o "$run/evaluation"
[ "${INSTALL:-1}" = 0 ] || python "$here/install_bundled.py" "$run/aid/model"
