#!/usr/bin/env bash
# Train the bundled model from recordings, stage by stage; run it again to resume after a kill.
#
#   launch/train_bundled.sh runs/bundled RECORDING...
#
# Minutes of each stage by VAE, PRIOR and AID in the environment. Then look at
#   python launch/validate.py RECORDING... --model runs/bundled/aid/model
# and install the model with
#   python launch/install_bundled.py runs/bundled/aid/model
set -euo pipefail
run=${1:?a folder for the run, then recordings}
shift
aid-robot train vae   "$@" -o "$run" --minutes "${VAE:-7}"
aid-robot train prior "$@" -o "$run" --minutes "${PRIOR:-30}"
aid-robot train aid   "$@" -o "$run" --minutes "${AID:-28}"
