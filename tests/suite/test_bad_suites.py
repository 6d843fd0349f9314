"""Whatever is wrong with a suite: exit 2, one clear line per mistake, nothing started, no traceback."""

import subprocess
import sys
import textwrap

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kdbench.errors import UserError
from kdbench.suite.load import load_suite

GOOD = """\
name: good
datasets: [digits]
pairs:
  - {teacher: cifar_resnet14, student: cifar_resnet8}
methods:
  student: {ce: 1}
  kd: {ce: 0.1, kd: {weight: 0.9, temperature: 4}}
seeds: [0, 1]
validation: 0.1
train: {epochs: 2, lr: 0.1}
"""

TAUGHT = (
    "teacher: cifar_resnet14",
    "teacher: {model: cifar_resnet14, taught_by: {model: cifar_resnet20}, objective: {ce: 0.1, kd: 1}}",
)

# (what to replace in GOOD, by what, the line of the mistake, what its message must say[, what else to replace])
MISTAKES = {
    "missing key": ("seeds: [0, 1]\n", "", 1, "seeds: is missing"),
    "wrong type": ("epochs: 2", "epochs: two", 10, "train.epochs"),
    "text for a list": ("seeds: [0, 1]", "seeds: 3", 8, "seeds"),
    "unknown model": ("student: cifar_resnet8}", "student: cifar_resnt8}", 4, "did you mean 'cifar_resnet8'?"),
    "unknown teacher": ("teacher: cifar_resnet14", "teacher: resnt18", 4, "pairs[0].teacher: unknown model 'resnt18'"),
    "unknown method": ("{ce: 1}", "{cee: 1}", 6, "unknown method 'cee'"),
    "unknown data set": ("[digits]", "[digit]", 2, "did you mean 'digits'?"),
    "unknown metric": ("digits", "{name: text_folder, path: nowhere, metric: macrof1}", 2, "did you mean 'macro_f1'?"),
    "unknown setting": ("temperature: 4", "temprature: 4", 7, "did you mean 'temperature'?"),
    "unknown key": ("validation: 0.1", "validaton: 0.1", 9, "did you mean 'validation'?"),
    "unknown training key": ("lr: 0.1", "learning_rate: 0.1", 10, "train.learning_rate: unknown entry"),
    "unknown augmentation": ("lr: 0.1", "augment: crop_flp", 10, "train.augment: unknown augmentation 'crop_flp'; did"),
    "unknown optimizer": ("lr: 0.1", "optimizer: sdg", 10, "train.optimizer"),
    "optimizer of timm": ("lr: 0.1", "optimizer: lambb", 10, "unknown optimizer 'lambb'; did you mean"),
    "optimizer left out": ("lr: 0.1", "optimizer: adahessian", 10, "train.optimizer: unknown optimizer 'adahessian'"),
    "betas of sgd": ("lr: 0.1", "betas: [0.9, 0.99]", 10, "train.optimizer: sgd has no betas"),
    "betas of lars": ("lr: 0.1", "optimizer: lars, betas: [0.9, 0.9]", 10, "train.optimizer: lars has no betas"),
    "schedule of timm": ("lr: 0.1", "schedule: {timm: plateau}", 10, "train.schedule.timm.name: should be 'cosine'"),
    "schedule's setting": ("lr: 0.1", "schedule: {timm: tanh, minlr: 1}", 10, "did you mean 'min_lr'?"),
    "warm-up of nothing": ("lr: 0.1", "ema_warmup: true", 10, "give its decay as `ema`"),
    "accumulated once": ("lr: 0.1", "accumulate: 1", 10, "train.accumulate: should be greater than or equal to 2"),
    "augmentation in a table": ("lr: 0.1", "augment: {flipp: 0.5}", 10, "did you mean 'flip'?"),
    "augmentation twice": ("lr: 0.1", "augment: {shift: 0.1, resized_crop: [0.1, 1]}", 10, "is enough"),
    "augmentation's setting": ("lr: 0.1", "augment: {rand_augment: {magnitude: 11}}", 10, "less than or equal to 10"),
    "no augmentation": ("lr: 0.1", "augment: 3", 10, "train.augment"),
    "smoothed to nothing": ("lr: 0.1", "label_smoothing: 1", 10, "train.label_smoothing: should be less than 1"),
    "empty list": ("seeds: [0, 1]", "seeds: []", 8, "is empty"),
    "empty data sets": ("[digits]", "[]", 2, "is empty"),
    "no rows": ("  student: {ce: 1}\n  kd: {ce: 0.1, kd: {weight: 0.9, temperature: 4}}\n", "  {}\n", 5, "is empty"),
    "negative rate": ("lr: 0.1", "lr: -0.1", 10, "train.lr: should be greater than 0, not -0.1"),
    "zero epochs": ("epochs: 2", "epochs: 0", 10, "train.epochs"),
    "NaN": ("lr: 0.1", "lr: .nan", 10, "train.lr"),
    "infinite": ("lr: 0.1", "lr: .inf", 10, "train.lr"),
    "NaN weight": ("{ce: 1}", "{ce: .nan}", 6, "methods.student.ce"),
    "negative weight": ("{ce: 1}", "{ce: -1}", 6, "methods.student.ce"),
    "zero weight": ("{ce: 1}", "{ce: 0}", 6, "methods.student.ce"),
    "text weight": ("{ce: 1}", "{ce: much}", 6, "methods.student.ce"),
    "negative temperature": ("temperature: 4", "temperature: -4", 7, "methods.kd.kd.temperature"),
    "share above 1": ("validation: 0.1", "validation: 1.5", 9, "validation"),
    "negative seed": ("seeds: [0, 1]", "seeds: [-1]", 8, "seeds[0]"),
    "a row's seeds are no list": ("{ce: 1}", "{ce: 1, seeds: 3}", 6, "methods.student.seeds"),
    "a row's seed is negative": ("{ce: 1}", "{ce: 1, seeds: [0, -1]}", 6, "methods.student.seeds[1]"),
    "a row without seeds": ("{ce: 1}", "{ce: 1, seeds: []}", 6, "methods.student.seeds: is empty"),
    "a row's seed twice": ("{ce: 1}", "{ce: 1, seeds: [0, 2, 0]}", 6, "seeds[2]: stands here twice (also as seeds[0])"),
    "a row's seeds apart": ("{ce: 1}", "{ce: 1, seeds: [7]}", 6, "has no seed in common with the suite's, [0, 1]"),
    "a row of seeds alone": ("{ce: 1}", "{seeds: [0]}", 6, "an objective needs at least one method"),
    "reference seed twice": ("seeds: [0, 1]", "seeds: [0, 1]\nreference_seeds: [0, 2, 2]", 9, "reference_seeds[1])"),
    "reference seeds apart": ("seeds: [0, 1]", "seeds: [0, 1]\nreference_seeds: [7]", 9, "has no seed in common"),
    "reference seeds no list": ("seeds: [0, 1]", "seeds: [0, 1]\nreference_seeds: 5", 9, "reference_seeds: should be"),
    "unknown control": ("{ce: 1}", "{ce: 1, kd: 1, teacher: untaught}", 6, "should be 'untrained' or"),
    "control of nothing": ("{ce: 1}", "{ce: 1, teacher: untrained}", 6, "has no teacher, so no control of it"),
    "control for no time": ("lr: 0.1}", "lr: 0.1}\nteacher_train: {epochs: 0}", 7, "no control can be trained",
                            ("{ce: 0.1, kd:", "{teacher: shuffled_labels, ce: 0.1, kd:")),
    "duplicate key": ("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]", 9, "seeds: stands here twice"),
    "duplicate label": ("  kd: {", "  student: {", 7, "methods.student: stands here twice"),
    "duplicate seed": ("seeds: [0, 1]", "seeds: [1, 1]", 8, "seeds[1]: stands here twice"),
    "same objective": ("  kd: {ce: 0.1, kd: {weight: 0.9, temperature: 4}}", "  other: {ce: 1.0}", 7, "'student'"),
    "objective without methods": ("{ce: 1}", "{}", 6, "at least one method"),
    "objective not a table": ("{ce: 1}", "ce", 6, "methods.student"),
    "name not a file name": ("name: good", "name: ../good", 1, "plain file name"),
    "reserved name": ("name: good", "name: teachers", 1, "taken"),
    "missing plugin": ("seeds: [0, 1]", "seeds: [0, 1]\nplugins: [nowhere.py]", 9, "no such file"),
    "missing base": ("seeds: [0, 1]", "seeds: [0, 1]\nextends: nowhere.yaml", 9, "no such file"),
    "code tag": ("name: good", "name: !!python/object/apply:os.system ['touch /tmp/kdbench-was-here']", 1, "good"),
    "code tag as key": ("seeds: [0, 1]", "? !!python/name:os.system\n: 1\nseeds: [0, 1]", 8, ":8:"),
    "syntax error": ("seeds: [0, 1]", "seeds: [0, 1", 9, "expected"),
    "tab": ("seeds: [0, 1]", "\tseeds: [0, 1]", 8, "cannot start any token"),
    "milestones after the end": ("lr: 0.1", "schedule: {step: [5]}", 10, "stay below epochs"),
    "warm-up longer than training": ("lr: 0.1", "warmup_epochs: 2", 10, "warmup_epochs must be below"),
    "no checkpoint": ("teacher: cifar_resnet14", "teacher: {model: cifar_resnet14, checkpoint: x.pth}", 4, "x.pth"),
    "number as key": ("  student: {", "  1: {", 6, "must be text"),
    "bad schedule of a weight": ("{ce: 1}", "{ce: {from: 1, too: 2}}", 6, "methods.student.ce"),
    "pair's training": ("student: cifar_resnet8}", "student: cifar_resnet8, train: {lr: -1}}", 4, "pairs[0].train.lr"),
    "phase too long": ("{ce: 1}", "{phases: [{epochs: 2, kd: 1}, {ce: 1}]}", 6, "train.epochs is 2"),
    "phases beside a method": ("{ce: 1}", "{phases: [{ce: 1}], kd: 1}", 6, "phases must be a list of objectives"),
    "method of a phase": ("{ce: 1}", "{phases: [{epochs: 1, kd: 1}, {cee: 1}]}", 6, "phases[1].cee: unknown"),
    "phase without epochs": ("{ce: 1}", "{phases: [{kd: 1}, {ce: 1}]}", 6, "phases[0]: needs `epochs`"),
    "unknown teacher's teacher": (TAUGHT[0], TAUGHT[1].replace("resnet20", "resnt20"), 4, "taught_by: unknown model"),
    "teacher's method": (TAUGHT[0], TAUGHT[1].replace("kd:", "kdd:"), 4, "objective.kdd: unknown method 'kdd'"),
    "teacher's setting": (TAUGHT[0], TAUGHT[1].replace("kd: 1", "kd: {temprature: 1}"), 4, "mean 'temperature'?"),
    "taught without objective": (TAUGHT[0], "teacher: {model: cifar_resnet14, taught_by: resnet18}", 4, "go together"),
    "objective without teacher": (TAUGHT[0], "teacher: {model: cifar_resnet14, objective: {ce: 1}}", 4, "go together"),
    "taught and loaded": (TAUGHT[0], TAUGHT[1].replace("taught", "checkpoint: x.pth, taught"), 4, "is taken as it is"),
    "taught, misspelt": (TAUGHT[0], TAUGHT[1].replace("taught", "taugt"), 4, "did you mean 'taught_by'?"),
    "taught to be wrapped": (TAUGHT[0], TAUGHT[1].replace("kd: 1", "simkd: 1"), 4, "simkd's adapter stays"),
    "taught for no time": ("lr: 0.1}", "lr: 0.1}\nteacher_train: {epochs: 0}", 4, "nothing can be taught", TAUGHT),
    "taught student": ("student: cifar_resnet8", "student: {model: cifar_resnet8, taught_by: a}", 4, "only a teacher"),
    "weight of a rule": ("{ce: 1}", "{ce: 1, kd: 1, dot: 0.5}", 6, "dot is a rule on gradients: it has no loss"),
    "nothing but a rule": ("{ce: 1}", "{dot: {}}", 6, "the objective needs a loss too"),
    "setting of a rule": ("{ce: 1}", "{ce: 1, dot: {delta: 2}}", 6, "methods.student.dot.delta"),
    "pair of a row": ("{ce: 1}", '{by_pair: {"cifar_resnt14 -> *": {ce: 1}}}', 6, "did you mean 'cifar_resnet14 ->"),
    "pair that others take": ("{ce: 1}", '{by_pair: {"*": {ce: 1}, "cifar*": {ce: 2}}}', 6, "take all its pairs"),
    "method of a pair": ("{ce: 1}", '{by_pair: {"*": {cee: 1}}}', 6, "unknown method 'cee'"),
    "row beside its pairs": ("{ce: 1}", '{by_pair: {"*": {ce: 1}}, kd: 1}', 6, "and stand alone"),
    "no pairs of a row": ("{ce: 1}", "{by_pair: {}}", 6, "is empty"),
    "same on a pair": ("  kd: {ce: 0.1, kd: {weight: 0.9, temperature: 4}}", '  other: {by_pair: {"*": {ce: 1.0}}}', 7,
                       "'student' on cifar_resnet14 -> cifar_resnet8"),
    "standardised maps": ("{ce: 1}", "{ce: 1, at: {standardise: sample}}", 6, "at does not read the teacher's logits"),
}  # fmt: skip


def broken(tmp_path, name):
    old, new, line, text, *more = MISTAKES[name]
    content = GOOD
    for before, after in [(old, new), *more]:
        assert before in content
        content = content.replace(before, after, 1)
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    return path, line, text


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(kdbench, tmp_path, name, command):
    path, line, text = broken(tmp_path, name)
    code, out, err = kdbench(command, path)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    if name != "code tag":
        assert text in err
        assert any(f"bad.yaml:{line}:" in each for each in lines), err
    assert all("bad.yaml:" in each for each in lines), err
    assert not (tmp_path / "results").exists()


def test_the_good_suite_is_good(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    assert load_suite(path).seeds == (0, 1)


def test_all_mistakes_at_once(kdbench, tmp_path):
    path = tmp_path / "bad.yaml"
    text = GOOD.replace("lr: 0.1", "lr: -1").replace("{ce: 1}", "{cee: 1}").replace("cifar_resnet8}", "cifar_resnt8}")
    path.write_text(text.replace("temperature: 4", "temperature: 0"))
    code, _, err = kdbench("run", path)
    assert code == 2
    assert [line.split(":")[1] for line in err.strip().splitlines()] == ["4", "6", "7", "10"]


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe\x80binary", b"- a\n- list\n", b"just text", b"a: &x [*x]", b"{" * 5000]
)
def test_no_suite_at_all(kdbench, tmp_path, content, command):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    code, _, err = kdbench(command, path)
    assert code == 2
    assert err.startswith(str(path))
    assert len(err.strip().splitlines()) <= 6


def test_a_folder_and_a_missing_file(kdbench, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.yaml"):
        code, _, err = kdbench("run", path)
        assert code == 2
        assert str(path) in err


def test_a_tag_runs_nothing(kdbench, tmp_path):
    witness = tmp_path / "witness"
    path = tmp_path / "evil.yaml"
    for tag in ("!!python/object/apply:os.system", "!!python/object/new:os.system"):
        path.write_text(GOOD.replace("name: good", f"name: {tag} ['touch {witness}']"))
        assert kdbench("run", path)[0] == 2
    assert not witness.exists()


def test_aliases_cannot_explode(kdbench, tmp_path):
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    path = tmp_path / "laughs.yaml"
    path.write_text("\n".join(lines))
    code, _, err = kdbench("plan", path)
    assert code == 2
    assert "entries" in err


def test_a_wrong_entry_does_not_make_a_list_empty(kdbench, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(GOOD.replace("teacher: cifar_resnet14", "teacher: {model: cifar_resnet14, checkpoint: [a]}"))
    code, _, err = kdbench("plan", path)
    assert code == 2
    assert err.splitlines() == [f"{path}:4: pairs[0].teacher.checkpoint: should be text, not ['a']"]


def test_as_a_user_types_it(tmp_path):
    path, line, _ = broken(tmp_path, "unknown model")
    command = [sys.executable, "-m", "kdbench", "run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"{path}:{line}: pairs[0].student: unknown model 'cifar_resnt8'; did you mean 'cifar_resnet8'?"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["name", "datasets", "pairs", "methods", "seeds", "validation", "train", "teacher_train", "plugins"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(KEYS, JSON, min_size=1, max_size=3))
@example(changes={"plugins": ["a\rb"]})
def test_any_data_is_checked_without_a_traceback(tmp_path, changes):
    """Whatever stands in a suite, loading it succeeds or raises UserError with file and line."""
    import yaml

    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(GOOD), **changes}, allow_unicode=True), encoding="utf-8")
    try:
        load_suite(path)
    except UserError as error:
        assert all(line.startswith(str(path)) for line in str(error).splitlines() if line.strip()), str(error)  # noqa: PT017


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_kindly(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError):
        load_suite(path)


def test_schema_accepts_what_ships_and_names_every_method(kdbench):
    import json

    code, out, _ = kdbench("schema")
    schema = json.loads(out)
    assert code == 0
    assert '"temperature"' in json.dumps(schema["properties"]["methods"])


def test_messages_read_well(kdbench, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(textwrap.dedent(GOOD).replace("epochs: 2", "epochs: two"))
    assert kdbench("plan", path)[2].strip() == f"{path}:10: train.epochs: should be a whole number, not 'two'"


def test_a_value_that_may_have_several_types_is_one_mistake(kdbench, tmp_path):
    path = tmp_path / "suite.yaml"
    rows = "methods: {student: {ce: 1}}\nseeds: [0]\ntrain: {epochs: 1, test_crop: teachr}\n"
    path.write_text(
        f"name: x\ndatasets: [digits]\npairs: [{{teacher: cifar_resnet20, student: cifar_resnet8}}]\n{rows}"
    )
    code, _, err = kdbench("plan", path)
    assert code == 2
    wanted = "should be 'teacher' or 'student', or a number, or a table of entries, not 'teachr'"
    assert err == f"{path}:6: train.test_crop: {wanted}\n"
