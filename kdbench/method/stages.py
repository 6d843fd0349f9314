"""Which stage of the student meets which stage of the teacher, and how their shapes are made equal."""

from collections.abc import Sequence

from torch import Tensor

from kdbench.method.contract import Inapplicable, Outputs

Pairs = list[tuple[int, int]]  # (place in the student's features, place in the teacher's)


def pair_stages(
    student: Sequence[Tensor], teacher: Sequence[Tensor], stages: Sequence[int | float], what: str = "feature maps"
) -> Pairs:
    """Pairs of stage numbers (from the shallow end) for the `stages` asked for.

    A negative whole number counts the student's stages from the deep end; a fraction is a depth, 1.0 the last stage.
    The teacher's partner is the stage at the same place from the deep end where both have equally many stages, else
    the one at the fraction of depth at which the student's ends. Nothing is cut silently: raises Inapplicable when a
    stage does not exist.
    """
    for name, maps in (("student", student), ("teacher", teacher)):
        if not maps:
            raise Inapplicable(f"needs {what}; the {name} gives none")
    pairs = []
    for stage in stages:
        if isinstance(stage, int) and -stage > len(student):
            raise Inapplicable(f"needs stage {stage}; the student has only {len(student)} stages")
        place = len(student) + stage if isinstance(stage, int) else _at_depth(stage, len(student))
        partner = place if len(student) == len(teacher) else _at_depth((place + 1) / len(student), len(teacher))
        pairs.append((int(place), partner))
    return pairs


def pair_layers(
    student: Sequence[Tensor], teacher: Sequence[Tensor], layers: Sequence[int | float] | None, what: str
) -> Pairs:
    """As `pair_stages`, but None asks for all of the student's: of M and N layers m meets m N / M (TinyBERT's uniform
    mapping). No pair stands twice."""
    chosen = range(-len(student), 0) if layers is None else layers
    return list(dict.fromkeys(pair_stages(student, teacher, chosen, what)))


def _at_depth(depth: float, count: int) -> int:
    """The stage that ends nearest to `depth` (0..1] of a net with `count` stages."""
    return min(range(count), key=lambda place: (abs((place + 1) / count - depth), -place))


def same_channels(student: Tensor, teacher: Tensor) -> None:
    """Raises Inapplicable unless two maps [B, C, H, W] have equally many channels."""
    if student.shape[1] != teacher.shape[1]:
        raise Inapplicable(f"needs equal channels; student has {student.shape[1]}, teacher {teacher.shape[1]}")


def needs_places(student: Sequence[Tensor], teacher: Sequence[Tensor], pairs: Pairs) -> None:
    """Raises Inapplicable when all pairs of maps [B, C, H, W] have one position in common: nothing to compare."""
    if all(min(student[s].shape[2:].numel(), teacher[t].shape[2:].numel()) == 1 for s, t in pairs):
        raise Inapplicable("compares positions of a map, and these maps are 1 x 1; take a larger input or other stages")


def embeddings(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The student's [B, D_s] and the teacher's [B, D_t], of a method that needs `embedding`."""
    assert student.embedding is not None
    assert teacher.embedding is not None
    return student.embedding, teacher.embedding


def same_width(student: Tensor, teacher: Tensor) -> None:
    """Raises Inapplicable unless two embeddings [B, D] are equally wide."""
    if student.shape[1] != teacher.shape[1]:
        widths = f"student has {student.shape[1]}, teacher {teacher.shape[1]}"
        raise Inapplicable(f"needs embeddings of equal width; {widths}")


def needs_class_maps(outputs: Outputs, grid: int, side: str) -> None:
    """Raises Inapplicable unless the net's classifier reads the mean of its `pooled_map`, `grid` x `grid` or more."""
    assert outputs.pooled_map is not None
    assert outputs.classifier is not None
    assert outputs.embedding is not None
    maps, width = outputs.pooled_map, outputs.classifier[0].shape[1]
    if maps.shape[1] != width:
        found = f"the {side}'s reads {width} channels, the map has {maps.shape[1]}"
        raise Inapplicable(f"needs a classifier on the last map; {found}")
    if min(maps.shape[-2:]) < grid:
        size = " x ".join(map(str, maps.shape[-2:]))
        raise Inapplicable(f"needs last maps of at least {grid} x {grid}; the {side}'s are {size}")
    # A norm between map and classifier does not show in shapes: where there are values, look at them.
    mean = maps.mean((2, 3))
    if not maps.is_meta and (mean - outputs.embedding).abs().max() > 1e-2 * mean.abs().max() + 1e-6:
        raise Inapplicable(f"needs a classifier on the mean of the last map; the {side}'s reads something else")


def same_places(student: Tensor, teacher: Tensor) -> None:
    """Raises Inapplicable unless two attentions [B, heads, L, d] are over equally many places."""
    if student.shape[2] != teacher.shape[2]:
        counts = f"student has {student.shape[2]}, teacher {teacher.shape[2]}"
        raise Inapplicable(f"needs attention over equally many tokens; {counts}")


def same_kind(student: Tensor, teacher: Tensor) -> None:
    """Raises Inapplicable unless both are maps [B, C, H, W], or both sequences [B, L, D] over the same L places."""
    if student.ndim != teacher.ndim:
        raise Inapplicable("needs maps of both nets, or sequences of both; one gives these, one those")
    if student.ndim == 3 and student.shape[1] != teacher.shape[1]:
        counts = f"student has {student.shape[1]}, teacher {teacher.shape[1]}"
        raise Inapplicable(f"needs both nets to read the same places of a sequence; {counts}")


def same_heads(student: Tensor, teacher: Tensor) -> None:
    """Raises Inapplicable unless two attentions [B, heads, L, d] have equally many heads."""
    if student.shape[1] != teacher.shape[1]:
        raise Inapplicable(f"needs equally many heads; student has {student.shape[1]}, teacher {teacher.shape[1]}")
