"""Shows the result of a bisection as text and as a plot."""

from __future__ import annotations

from pathlib import Path

from lame_runtime.files.atomic import atomic_path

from lame_export.bisect.bisection_result import ERROR_LIMITS, BisectionResult


def table(result: BisectionResult) -> str:
    """Returns a line per modality, and one line that says what brings the graph back.

    A modality's line has the first module beyond the limit, the largest jump, and the embedding's
    smallest cosine.
    """
    rows = [("modality", "inputs", "leaves PyTorch at", "largest jump at", "min cosine", "gate")]
    for modality in result.modalities:
        rows.append(
            (
                modality.modality,
                str(modality.inputs),
                modality.first or "nowhere",
                modality.jump,
                f"{modality.figure['min_cosine']:.6f}",
                "met" if modality.passed else "FAILED",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return f"{text}\n{_remedy(result)}"


def _remedy(result: BisectionResult) -> str:
    """Returns the last line of the table: which layers bring the graph back, or what to do."""
    if all(modality.passed for modality in result.modalities):
        return "nothing to correct"
    if result.on_device:
        return (
            "islands are tried on ONNX Runtime only; if the graph meets its gate there, this "
            "device's kernels are wrong: build the plans with precision fallbacks"
        )
    how = "in FP32" if result.graph == "fp16" else "with activations that are not quantized"
    if result.islands is None:
        return (
            f"computing layers {how} does not correct it: look at the weights of the layer it "
            f"leaves at, or export the bundle again"
        )
    return f"corrected by computing {how}: {', '.join(result.islands)}"


def draw(result: BisectionResult, path: Path) -> None:
    """Draws the relative error against depth, with a line per modality, as a PNG file.

    Raises:
        StorageError: `path` cannot be written.
    """
    # Deferred: only the plot needs it. Agg draws without a display.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # A text has no errors in the vision tower, so no single modality has all modules in order.
    names = list(dict.fromkeys(name for modality in result.modalities for name in modality.errors))
    names.sort(key=lambda name: not name.startswith("vision."))
    positions = {name: index for index, name in enumerate(names)}
    figure, axes = plt.subplots(figsize=(max(8, len(names) * 0.16), 5), layout="constrained")
    for modality in result.modalities:
        axes.plot(
            [positions[name] for name in modality.errors],
            list(modality.errors.values()),
            ".-",
            linewidth=1,
            label=modality.modality,
        )
        # A ring marks the first module beyond the limit.
        if modality.first is not None:
            axes.plot(
                positions[modality.first],
                modality.errors[modality.first],
                "o",
                markersize=11,
                markerfacecolor="none",
                color="tab:red",
            )
    limit = ERROR_LIMITS[result.graph]
    axes.axhline(limit, color="0.5", linestyle="--", linewidth=1, label="has left PyTorch")
    axes.set(
        # Errors span many orders of magnitude, from rounding to a wrong layer.
        yscale="log",
        ylabel="relative error",
        title=f"{result.graph} against PyTorch, in the order of the graph",
    )
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.legend(fontsize=8)
    with atomic_path(path) as fresh:
        figure.savefig(fresh, dpi=110, format="png")
    # pyplot keeps figures until they are closed.
    plt.close(figure)
