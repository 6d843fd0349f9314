"""The commands from Python, cell by cell: `python examples/from_python.py`, or paste the cells into a notebook."""

# %% A suite is a file; the plugin that it names is imported with it.
from pathlib import Path

import torch

import kdbench

HERE = Path(__file__).parent
SUITE, RESULTS = HERE / "vectors.yaml", Path("results")

# %% What would a run do? Nothing is trained here.
plan = kdbench.plan(SUITE, results=RESULTS)
print(f"{len(plan.cells)} cells, {plan.num_done} done, {len(plan.todo)} to train")

# %% Train what is not done. The table has one row per objective; run again, it trains nothing.
table = kdbench.run(SUITE, results=RESULTS)
print(table[["objective", "n", "test_top1"]].to_string(index=False))

# %% The leaderboard of what is done so far, against another row.
board = kdbench.leaderboard(SUITE, results=RESULTS, reference="rkd")
print(board.columns.to_list())

# %% Every cell is a record: scores, cost, curves. Its key finds its student.
cell = next(cell for cell in plan.cells if cell.label == "kd")
student = kdbench.load_student(cell.key, results=RESULTS)
splits = kdbench.load_splits("tumours", {}, Path("data"))
with torch.inference_mode():
    right = student(splits.test.values).argmax(1) == splits.test.targets
print(f"{cell.title}: {100 * right.float().mean():.2f}% top-1")
