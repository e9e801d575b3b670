"""A training run: what it starts with, its loop, and what it writes.

train.py          a run from beginning to end
train_options.py  the options of a run
initialization.py model, tokenizer and contract that a run begins with
batches.py        rows, opened and drawn
loop.py           the steps of all stages; one update
progress.py       progress bar, losses.csv, TensorBoard, rows left out
resume.py         states to resume from
run_folder.py     the output folder and its files
environment.py    versions and machine, for the record
dry_run/          what a run would do and how much memory it would take
"""
