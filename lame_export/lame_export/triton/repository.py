"""Writes a bundle as a model of a Triton repository: configuration, `model.py`, warm-up, bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.members import open_member
from lame_runtime.errors import UsageError, shown
from lame_runtime.files.atomic import atomic_folder, require_new

from lame_export.triton.bare_graphs import graph_folders, write_graph_models
from lame_export.triton.serving import Serving, config_text
from lame_export.triton.warmup_files import FOLDER, write_warm_ups

VERSION = "1"
BUNDLE = "bundle"
"""Folder of the bundle, in that of the version."""
_MODEL = Path(__file__).parent / "version" / "model.py"


def write_model(
    folder: Path,
    repository: Path,
    serving: Serving,
    bundle_path: Path | None = None,
    *,
    bare_graphs: bool = False,
) -> Path:
    """Writes `REPOSITORY/NAME`, which appears when it is complete.

    Args:
        folder: the bundle; all of its files are hashed.
        repository: the repository, which need not exist and may hold other models.
        serving: the options of the model.
        bundle_path: where the server will find the bundle; None copies it into the model.
        bare_graphs: also write the graph's two parts as models of their own.

    Returns:
        The model's folder.

    Raises:
        BundleError: the bundle is damaged or incomplete.
        UsageError: the bundle has no such graph, `bundle_path` is not absolute, or `bare_graphs` is
            on without a graph.
        StorageError: there is such a model already, or it cannot be written.
    """
    bundle = Bundle.open(folder)
    if serving.graph is not None:
        bundle.graph_files(serving.graph)
    if bundle_path is not None and not bundle_path.is_absolute():
        # the server may start in any folder
        raise UsageError(f"`bundle_path` is {shown(bundle_path)}: give an absolute path")
    # a damaged file must not be found by a server in production
    bundle.check_all()
    place = BUNDLE if bundle_path is None else str(bundle_path)
    target = repository / serving.name
    if bare_graphs:
        # all names first, so that a taken one leaves nothing half done
        for path in (target, *graph_folders(repository, serving).values()):
            require_new(path)
        write_graph_models(bundle, repository, serving)
    with atomic_folder(target) as model:
        (model / FOLDER).mkdir()
        warm_ups = write_warm_ups(bundle, model / FOLDER)
        text = config_text(serving, bundle.manifest.model.dim, place, warm_ups)
        (model / "config.pbtxt").write_text(text, encoding="utf-8")
        version = model / VERSION
        version.mkdir()
        (version / "model.py").write_bytes(_MODEL.read_bytes())
        if bundle_path is None:
            _copy(bundle, version / BUNDLE)
    return target


def _copy(bundle: Bundle, target: Path) -> None:
    """Copies the files that the manifest lists, and not plans or what others left beside them."""
    for name in (*bundle.manifest.files, "manifest.json"):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        # a link of a hub's cache becomes the file that it leads to
        with open_member(bundle.folder, name) as source, copy.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
