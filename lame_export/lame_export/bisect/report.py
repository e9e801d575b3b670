"""What `lame-export bisect` found, as text and as a plot."""

from __future__ import annotations

from pathlib import Path

from lame_runtime.atomic import atomic_path

from lame_export.bisect.compare import LEAVES, Bisected


def table(found: Bisected) -> str:
    """Per modality the first place beyond the limit, the largest jump, and the embedding; then what mends it."""
    lines = [("modality", "inputs", "leaves PyTorch at", "largest jump at", "min cosine", "gate")]
    for each in found.modalities:
        met = "met" if each.passed else "FAILED"
        lines.append((each.modality, str(each.inputs), each.first or "nowhere", each.jump, f"{each.figure['min_cosine']:.6f}", met))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return f"{text}\n{_remedy(found)}"


def _remedy(found: Bisected) -> str:
    if all(each.passed for each in found.modalities):
        return "nothing to mend"
    if found.on_device:
        return "islands are tried without --module; where the CPU finds nothing wrong, it is the device: lame-export engine --fallback"
    how = "in FP32" if found.graph == "fp16" else "with activations that are not quantised"
    if found.islands is None:
        return f"computing layers {how} does not mend it: look at the weights of the layer it leaves at, or export the bundle again"
    return f"mended by computing {how}: {', '.join(found.islands)}"


def draw(found: Bisected, path: Path) -> None:
    """Relative error against depth, a line per modality; raises `InputError` where `path` cannot be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(name for each in found.modalities for name in each.errors))
    names.sort(key=lambda name: not name.startswith("vision."))
    place = {name: index for index, name in enumerate(names)}
    figure, axes = plt.subplots(figsize=(max(8, len(names) * 0.16), 5), layout="constrained")
    for each in found.modalities:
        axes.plot([place[name] for name in each.errors], list(each.errors.values()), ".-", linewidth=1, label=each.modality)
        if each.first is not None:
            axes.plot(place[each.first], each.errors[each.first], "o", markersize=11, markerfacecolor="none", color="tab:red")
    axes.axhline(LEAVES[found.graph], color="0.5", linestyle="--", linewidth=1, label="has left PyTorch")
    axes.set(yscale="log", ylabel="relative error", title=f"{found.graph} against PyTorch, in the order of the graph")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.legend(fontsize=8)
    with atomic_path(path) as fresh:
        figure.savefig(fresh, dpi=110, format="png")
    plt.close(figure)
