"""`kdbench sync`: bring MLflow up to date with the records."""

from pathlib import Path

from kdbench.api import Options
from kdbench.layout import Layout
from kdbench.results.records import Record, Records


def sync_suite(suite: Path, options: Options) -> int:
    from kdbench.api import make_leaderboard
    from kdbench.results.mlflow_thread import Mirror, sync
    from kdbench.suite.load import load_suite

    name = load_suite(suite, options.plugins).name
    records = Records(options.results, name).read_all()
    folder = Layout(options.results).suite(name)

    def files_of(record: Record) -> list[Path]:
        return [folder.student(record["key"])]

    try:
        written = sync(records, name, options.results, options.uri, files_of)
        text = make_leaderboard(suite, options)[1]
        Mirror(name, options.results, options.uri).summary(name, folder.board_files(), text)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"MLflow ({options.uri}) can't be written: {first}")
        return 1
    print(f"{options.uri}: {len(records)} cells, {written} written, {len(records) - written} were there")
    return 0
