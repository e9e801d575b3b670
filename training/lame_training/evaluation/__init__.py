"""Evaluates checkpoints and bundles on retrieval benchmarks.

There are two evaluations. `retrieval` is the small one: hit@1 on MMEB-style rows, for any function
that embeds; the exporter's gates, the demo and the studies use it. `runner` is the one behind
`lame-train evaluate`: suites of published benchmarks, with cached embeddings, resumable runs and
the leaderboard's reports. Both rank with `ranking`.

retrieval       hit@1 on rows with a pool and one right candidate
ranking         the order of candidates, and the rule for ties
runner          runs a suite on a model
select          finds a suite by name, and opens a checkpoint or bundle
scoring         embeddings of a task to its figures
metrics         nDCG, precision, recall and others of one ranked list
result_files    result files of tasks, and which of them still count
leaderboard     reports, tables and comparisons of runs
embedding/      inputs to vectors, each once
mmeb/           MMEB-V2, 78 tasks
suites/         what suites share, the digits, and MRMR

Axes in names: N candidates or documents, Q queries, R relevant documents, P values of an embedding.
"""
