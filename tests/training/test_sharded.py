"""Weights that are shared out over processes, as FSDP does it for the full size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# In a process of its own, since torch.distributed has one state a process.
PROGRAM = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from aid_robot.training.noise import Noise
from aid_robot.training.samples import collate_samples
from aid_robot.training.state import copy_whole, whole
from tests.training.tiny_stage import tiny_clips, tiny_stage

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
stage, plain = tiny_stage("aid"), tiny_stage("aid")
clips = tiny_clips("aid")
batch = collate_samples([clips[number] for number in range(2)])
fully_shard(stage, mesh=init_device_mesh("cpu", (1,)))
assert all(isinstance(parameter, DTensor) for parameter in stage.trained.values())
assert list(stage.trained) == list(plain.trained)
for one in (stage, plain):
    one(batch, Noise(0, 0, 2)).backward()
    torch.optim.AdamW(one.trained.values(), lr=1e-3).step()
for name, parameter in plain.trained.items():
    torch.testing.assert_close(whole(stage.trained[name]), parameter.detach(), msg=name)
for parameter in stage.trained.values():
    fresh = torch.zeros_like(parameter)
    copy_whole(fresh, whole(parameter))
    assert whole(fresh).equal(whole(parameter))
averages = [parameter.detach().clone() for parameter in stage.trained.values()]
with torch.no_grad():
    torch._foreach_lerp_(averages, list(stage.trained.values()), 0.5)
assert stage(batch, task="measure", count=1)["psnr"].shape == (1,)
print("sound")
"""


def test_a_stage_that_is_shared_out_learns_as_one_that_is_not() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.stdout.strip().endswith("sound"), shown.stderr[-2000:]
