"""Which methods run on which kinds of nets: writes docs/applicability.md.

    uv run python docs/applicability.py [--train]

Twenty diverse timm models as teachers and as students, pictures of 64 x 64, 10 classes: every method on each of the 400
pairs, on the meta device (shapes only). `--train` also makes one real training step of kd, rkd, fitnet and at for
each pair, and counts what is finite. `--texts` writes the table of texts alone anew.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import torch

from kdbench.data import DATASETS, Splits, task_of
from kdbench.method.contract import Inapplicable, Outputs, Task
from kdbench.method.register import METHODS
from kdbench.nets import build_net
from kdbench.suite.load import ModelSpec, Train
from kdbench.suite.objectives import BASELINE, objective
from kdbench.suite.plugins import load_methods
from kdbench.train.arithmetic import RIGHT, Verdicts
from kdbench.train.objective import Objective, blank_outputs, built_objective, needs_of, student_needs_of
from kdbench.train.start import training_task
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial, forward_teacher
from kdbench.vision.batches import Images

MODELS = {
    "resnet18": {}, "resnet50": {}, "vgg11_bn": {}, "densenet121": {}, "regnety_002": {}, "repvgg_a0": {},
    "mobilenetv2_050": {}, "mobilenetv3_small_050": {}, "efficientnet_b0": {}, "ghostnet_050": {},
    "convnext_atto": {}, "poolformerv2_s12": {}, "mobilevit_xxs": {}, "vit_tiny_patch16_224": {"img_size": 64},
    "deit_tiny_distilled_patch16_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4},
    "pvt_v2_b0": {}, "xcit_nano_12_p8_224": {"img_size": 64}, "mixer_s32_224": {"img_size": 64},
    "resmlp_12_224": {"img_size": 64},
}  # fmt: skip
TEXTS = {
    "bert": {"layers": 4, "width": 64, "heads": 4},
    "smaller bert": {"model": "bert", "layers": 2, "width": 32, "heads": 4},
    "bilstm": {"width": 32, "hidden": 32},
}  # fmt: skip
TEXT_PAIRS = (("bert", "smaller bert"), ("bert", "bilstm"), ("bilstm", "bilstm"))
NUMBERS = ("bert", "smaller bert")  # the pair that is also asked to learn numbers
TEXT_HEAD = "## Texts"
SIDE, CLASSES = 64, 10
TRAINED = ("kd", "rkd", "fitnet", "at")


def spec(name: str) -> ModelSpec:
    return ModelSpec.model_validate({"model": name, **(MODELS | TEXTS)[name]})


def few_pictures() -> Splits:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, SIDE, SIDE, 3), dtype=torch.uint8, generator=draw)
    return Splits(Images(pixels, torch.arange(8)), Images(pixels, torch.arange(8)), CLASSES)


def verdicts(pairs: Iterable[tuple[str, str]], of: Task) -> dict[tuple[str, str, str], str | None]:
    """(teacher, student, method) -> why not, or None where it applies."""
    pairs = list(pairs)
    with torch.device("meta"):
        nets = {name: build_net(spec(name), of).to("meta").eval() for name in dict.fromkeys(sum(pairs, ()))}
    targets = torch.zeros(8, dtype=torch.int64, device="meta")
    task = training_task(of, Train(), targets)

    @cache
    def outputs(name: str, needs: frozenset[str]) -> Outputs | Inapplicable:
        try:
            return blank_outputs(nets[name], needs, task, "meta")
        except Inapplicable as reason:
            return reason

    def why_not(method: str, teacher: str, student: str) -> str | None:
        student_out = outputs(student, student_needs_of([method]))
        teacher_out = outputs(teacher, needs_of([method]))
        for found in (student_out, teacher_out):
            if isinstance(found, Inapplicable):
                return str(found)
        try:
            with torch.device("meta"):
                Objective(objective({method: 1.0})).build(student_out, teacher_out, task, 0)
        except Inapplicable as reason:
            return str(reason)
        return None

    return {(*pair, method): why_not(method, *pair) for pair in pairs for method in METHODS}


def of_classes() -> list[str]:
    return [name for name in METHODS if METHODS[name].kinds != ("numbers",)]


def table_of_texts() -> str:
    """A line a method, a column a pair of nets that read sequences; the last of nets that learn numbers."""
    task = task_of("docstrings", DATASETS.settings("docstrings", {})[0], Path())
    numbers = verdicts([NUMBERS], replace(task, num_classes=1, classes=(), metric="pearson", kind="numbers"))
    found = verdicts(TEXT_PAIRS, task) | {("numbers", *NUMBERS, key[2]): why for key, why in numbers.items()}
    columns = [*TEXT_PAIRS, ("numbers", *NUMBERS)]
    counts = [sum(found[*column, method] is None for method in METHODS) for column in columns]
    names = [" -> ".join(pair) for pair in TEXT_PAIRS] + [f"{' -> '.join(NUMBERS)}, numbers"]
    heads = [f"{name} ({count})" for name, count in zip(names, counts, strict=True)]
    lines = [TEXT_HEAD, "", f"Nets that read sequences, and how many of the {len(list(METHODS))} methods apply; by "]
    lines[-1] += "`kdbench list methods --dataset docstrings --pair TEACHER STUDENT` for two of your own."
    lines += ["", f"| method | {' | '.join(heads)} |", "|:--|" + ":--|" * len(heads)]
    for method in METHODS:
        reasons = [found[*column, method] for column in columns]
        told = ["yes" if why is None else why.removeprefix(f"{method} ").split(";")[0] for why in reasons]
        lines.append(f"| {method} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def steps() -> tuple[Counter[str], list[str]]:
    """How many pairs make a finite training step with each method, and why the others don't."""
    splits, cpu = few_pictures(), torch.device("cpu")
    batch = next(splits.train.in_order(2))
    task = training_task(splits.task, Train(), splits.train.targets)
    done: Counter[str] = Counter()
    why: list[str] = []
    students = {name: build_net(spec(name), task, "student") for name in MODELS}
    starts = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in students.items()}
    for t in MODELS:
        teacher = freeze(build_net(spec(t), task, "teacher"), cpu)
        for s in MODELS:
            for method in TRAINED:
                try:
                    net = students[s]
                    net.load_state_dict(starts[s])  # building it anew takes longer than the step
                    made = built_objective(objective({BASELINE: 1, method: 1}), net, teacher, task, cpu, 0)
                    trial = Trial(net, made, Train(lr=0.01), cpu, 0)
                    teacher_out = forward_teacher(teacher, batch, needs_of([method]), "fp32")
                    trial.step(batch, teacher_out, torch.tensor(0.01))
                    if not all(torch.isfinite(value) for value in trial.sums.values()):
                        raise ArithmeticError("the loss is not finite")
                    done[method] += 1
                except Exception as error:
                    why.append(f"{t} → {s}: {method}: {error}")
            print(f"\r{t} -> {s}        ", end="", file=sys.stderr, flush=True)
    return done, why


def write(found: dict[tuple[str, str, str], str | None], trained: tuple[Counter[str], list[str]] | None) -> str:
    methods, pairs = of_classes(), len(MODELS) ** 2
    lines = [
        "# What applies to what",
        "",
        f"{len(MODELS)} timm models as teachers and as students, pictures of 64 x 64, {len(methods)} methods.",
        "Written by `uv run python docs/applicability.py --train`. For two models of your own:",
        "`kdbench list methods --pair TEACHER STUDENT`.",
        "",
    ]
    if trained is not None:
        done, why = trained
        counts = ", ".join(f"{method} {done[method]} ({done[method] / pairs:.0%})" for method in TRAINED)
        lines += [f"**One real training step** is finite on so many of the {pairs} pairs: {counts}.", ""]
        lines += [f"- {line}" for line in why] + [""]
    lines += ["## Methods", "", "| method | pairs | where not (pairs) |", "|:--|--:|:--|"]
    for method in methods:
        reasons: Counter[str] = Counter()
        for (_, _, name), reason in found.items():
            if name == method and reason is not None:
                reasons[reason.removeprefix(f"{method} ").split(";")[0]] += 1
        told = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(4))
        lines.append(f"| {method} | {pairs - sum(reasons.values())} | {told} |")
    lines += ["", "## Pairs", "", f"How many of the {len(methods)} methods apply; teachers down, students across.", ""]
    lines += ["| | " + " | ".join(f"{place + 1}" for place in range(len(MODELS))) + " |"]
    lines += ["|:--|" + "--:|" * len(MODELS)]
    counts_of: dict[tuple[str, str], int] = defaultdict(int)
    for (teacher, student, _), reason in found.items():
        counts_of[teacher, student] += reason is None
    for place, teacher in enumerate(MODELS):
        row = " | ".join(str(counts_of[teacher, student]) for student in MODELS)
        lines.append(f"| {place + 1} {teacher} | {row} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--train", action="store_true", help="also make one real step with each of four methods")
    options.add_argument("--texts", action="store_true", help="only the table of texts; the rest stays as it is")
    given = options.parse_args()
    load_methods()
    Verdicts.way = lambda self, operation: RIGHT  # shapes are asked for here: proving every kernel takes hours
    torch.set_num_threads(1)  # of pictures so few, several threads only wait for each other
    place = Path(__file__).parent / "applicability.md"
    if given.texts:
        text = place.read_text(encoding="utf-8").split(TEXT_HEAD)[0].rstrip("\n") + "\n"
    else:
        text = write(verdicts(product(MODELS, MODELS), few_pictures().task), steps() if given.train else None)
    place.write_text(f"{text}\n{table_of_texts()}", encoding="utf-8")


if __name__ == "__main__":
    main()
