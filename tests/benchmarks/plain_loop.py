"""How the field's code trains: one method after another, each with its own data loader and its own teacher.

Pictures are PIL images, cropped, flipped and normalised one by one by torchvision in two worker processes; arithmetic
is fp32 in the default memory layout; every step reads the loss and two accuracies back with `.item()`. Losses and nets
are ours, so that only the loop differs. The teacher's forward asks for what the method needs and no more (published
loops ask for all of it).

For timing, the loops live in a process of their own (`Apart`), whose threads wait for each other as the OpenMP library
lets them when nobody says otherwise: published code does not, `import kdbench` does.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from common import MORE, NINE, frozen_teacher, net, pictures, trial, wait
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdbench.data import Splits
from kdbench.method.contract import Batch, Outputs
from kdbench.nets import Net
from kdbench.suite.load import Train
from kdbench.suite.plugins import load_methods
from kdbench.train.trial import Trial

PREFETCHED = 4  # batches: two by each of two workers, PyTorch's default
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


class Pictures(Dataset[tuple[Tensor, int, int]]):
    def __init__(self, splits: Splits) -> None:
        self.pixels, self.targets = splits.train.pixels.cpu().numpy(), splits.train.targets.tolist()
        self.transform = transforms.Compose([
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.transform(self.pixels[index]), self.targets[index], index


class PlainLoop:
    """One method's training; `run(steps)` goes on where it stopped, so that it can be interleaved with others."""

    def __init__(self, trial: Trial, teacher: Net, splits: Splits, train: Train, device: torch.device) -> None:
        self.student, self.objective, self.device = trial.net, trial.objective, device
        self.student.to(memory_format=torch.contiguous_format)
        self.teacher = teacher
        for model in (self.student, self.teacher):
            model.mean.zero_(), model.std.fill_(1)  # the loader has normalised already
        self.optimizer = torch.optim.SGD(trial.params, train.lr, train.momentum, weight_decay=train.weight_decay)
        self.loader = DataLoader(
            Pictures(splits), train.batch_size, shuffle=True, num_workers=2, persistent_workers=True,
            pin_memory=device.type == "cuda",
        )  # fmt: skip
        self.batches = self.forever()
        self.meters: dict[str, float] = {}

    def forever(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def run(self, steps: int) -> None:
        for _ in range(steps):
            images, target, index = (x.to(self.device) for x in next(self.batches))
            batch = Batch(images, target, index, torch.tensor(0.5))
            said = self.student(images, self.objective.student_needs)
            taught = Outputs(said.logits.detach())  # for labels alone, which the field trains without a teacher
            if self.objective.needs:
                with torch.no_grad():
                    taught = self.teacher(images, self.objective.needs)
            task, distilled, _ = self.objective(said, taught, batch)
            loss = task + distilled
            self.meters["loss"] = loss.item()
            for k in (1, 5):
                right = (said.logits.topk(k, dim=1).indices == target[:, None]).any(1)
                self.meters[f"top{k}"] = right.float().mean().item()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def frozen_plain(net: Net) -> Net:
    """A teacher of its own for the loop: eval mode, fp32, default layout."""
    for parameter in nn.Module.parameters(net):
        parameter.requires_grad_(False)
    return net.eval()


class Apart:
    """Plain loops of several methods in another process; `seconds(name, steps)` of one step."""

    def __init__(self, teacher: str, student: str, names: Sequence[str], train: Train, device: torch.device) -> None:
        told = json.dumps([teacher, student, list(names), train.batch_size, str(device)])
        usual = {**os.environ, "GOMP_SPINCOUNT": "300000"}  # libgomp's own default
        self.process = subprocess.Popen(
            [sys.executable, __file__, told], env=usual, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ask("ready?")

    def seconds(self, name: str, steps: int) -> float:
        return self._ask(f"{name} {steps}")

    def close(self) -> None:
        """All is answered. Killed, not asked to end: with a loader for each method and a GPU it never did."""
        self.process.kill()
        self.process.wait()

    def _ask(self, what: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(what, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def serve(teacher: str, student: str, names: Sequence[str], batch_size: int, where: str) -> None:
    """Answer every line `name steps` on stdin with the seconds of one step."""
    load_methods()
    device, splits, train = torch.device(where), pictures(), Train(batch_size=batch_size, lr=1e-4)
    shown, rows = splits.to(device), {**NINE, **MORE}
    frozen = frozen_teacher(teacher, splits, device)
    own = frozen_plain(net(teacher, splits, "teacher").to(device))
    members = {name: trial(student, rows[name], frozen, shown, train, device) for name in names}
    loops = {name: PlainLoop(member, own, splits, train, device) for name, member in members.items()}
    for loop in loops.values():
        loop.run(2)  # warm: workers, the optimizers' buffers, kernels chosen by shape
    for line in sys.stdin:
        taken = 0.0
        if line.strip() != "ready?":
            name, steps = line.split()
            loops[name].run(PREFETCHED)  # use up what the workers made while the loop waited for its turn
            wait(device)
            start = time.perf_counter()
            loops[name].run(int(steps))
            wait(device)
            taken = (time.perf_counter() - start) / int(steps)
        print(taken, flush=True)


if __name__ == "__main__":
    serve(*json.loads(sys.argv[1]))
