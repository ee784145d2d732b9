"""What each of two processes does in ``test_distributed.py``: saves a checkpoint, then another, in which rank 1 is killed."""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import adamas.torch as at

SHAPE, STEPS = (6, 256), 2


def gradient(step: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(step))


class Killed(dcp.FileSystemWriter):
    """Kills rank 1 after it has written its file, before the metadata."""

    def write_data(self, *arguments: Any) -> Any:
        written = super().write_data(*arguments)
        written.wait()
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return written


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(minutes=5))
    mesh = init_device_mesh("cpu", (2,))
    p = torch.nn.Parameter(distribute_tensor(torch.zeros(SHAPE), mesh, [Shard(0)]))
    optimizer = at.AdamW([("w", p)], lr=0.1, state="int8")
    for name, writer in (("good", dcp.FileSystemWriter), ("half", Killed)):
        for _ in range(STEPS):
            p.grad = distribute_tensor(gradient(int(optimizer.state[p].get("step", 0))), mesh, [Shard(0)])
            optimizer.step()
        saved = {"w": p.detach(), "optimizer": optimizer.state_dict()}
        dcp.save(saved, storage_writer=writer(folder / name))


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), Path(sys.argv[2]))
    except BaseException as error:
        print(error, flush=True)
        os._exit(1)  # the threads of gloo may keep the interpreter from ending
