"""Suites that come with kdbench, found by name wherever a command is run."""

from difflib import get_close_matches
from functools import cache
from pathlib import Path

from kdbench.errors import UserError

HERE = Path(__file__).resolve().parents[1]
FOLDERS = (HERE / "shipped_suites", HERE.parent / "suites")  # an installed package's, a checkout's
LOCAL = ("*.yaml", "suites/*.yaml")  # where a user's own lie, seen from where kdbench runs


@cache
def shipped() -> dict[str, Path]:
    """Name -> file: `quickstart` -> .../quickstart.yaml"""
    place = next((folder for folder in FOLDERS if (folder / "quickstart.yaml").is_file()), None)
    return {path.stem: path for path in sorted(place.glob("*.yaml"))} if place else {}


def recipes() -> dict[str, Path]:
    """The same of recipes, `train: {recipe: NAME}`."""
    place = next((folder / "recipes" for folder in FOLDERS if (folder / "recipes").is_dir()), None)
    return {path.stem: path for path in sorted(place.glob("*.yaml"))} if place else {}


def local() -> list[Path]:
    """The user's own: what looks like a suite here and in `suites/`. A checkout's are the shipped ones."""
    known = {path.resolve() for path in shipped().values()}
    found = [path for pattern in LOCAL for path in sorted(Path().glob(pattern))]
    return [path for path in found if path.resolve() not in known and _is_suite(path)]


def _is_suite(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    return any(line.startswith(("methods:", "extends:")) for line in text.splitlines())


def suite_path(given: Path) -> Path:
    """The file that is meant: `given`, or what comes with kdbench under that name. Raises UserError for neither."""
    if given.is_dir():
        raise UserError(f"{given} is a folder; of one with pictures `kdbench init {given}` makes a suite")
    if given.exists():
        return given
    if str(given) == given.name and given.name.removesuffix(".yaml") in shipped():
        return shipped()[given.name.removesuffix(".yaml")]
    raise UserError(f"{given}: no such suite{nearest(given)}")


def command_of(suite: Path) -> str:
    """What to type to run it: by its name where it comes with kdbench, a copy too, else by its file's name."""
    ours = shipped().get(suite.stem)
    same = ours is not None and (suite.resolve() == ours or suite.read_bytes() == ours.read_bytes())
    return f"kdbench run {suite.stem if same else suite.name}"


def nearest(given: Path) -> str:
    """`; did you mean suites/quickstart.yaml?`, else where to look."""
    beside = [str(path) for path in sorted(given.parent.glob("*.yaml"))] if given.parent.is_dir() else []
    by_name = {Path(name).stem.lower(): name for name in [*shipped(), *beside, *map(str, local())]}
    near = get_close_matches(given.name.lower().removesuffix(".yaml"), by_name, n=1, cutoff=0.6)
    return f"; did you mean {by_name[near[0]]}?" if near else "; `kdbench list suites` shows those that there are"
