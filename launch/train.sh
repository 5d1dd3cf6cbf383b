#!/usr/bin/env bash
# Train on the GPUs of one machine; run it again to go on after a stop.
#
#   launch/train.sh CONFIG -o RUN --set data.store=STORE      # all GPUs, the model on each
#   FSDP=1 launch/train.sh full_size -o RUN ...               # weights shared out over them
#   GPUS=2 launch/train.sh ...                                # two of them
#
# A step's clips are shared by the GPUs: the result is that of one GPU, but for rounding.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
if [ "${FSDP:-0}" = 1 ]; then
  exec accelerate launch --config_file "$here/configs/fsdp.yaml" --num_processes "$gpus" \
    -m aid_robot.cli train "$@"
fi
exec torchrun --standalone --nproc-per-node "$gpus" -m aid_robot.cli train "$@"
