"""Nothing that comes with the data leads out of the data root, unless the user allows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from lame_runtime.errors import InputError, LameError, StorageError, UsageError
from lame_training.__main__ import main
from lame_training.data import DataSet, data_sets, open_rows, read_mixture, row_files
from lame_training.data.sources import data_root, yaml_file
from PIL import Image
from samples import write_mixture, write_mmeb_rows, write_own_rows

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns a data root; files and a folder of pictures lie outside, and links lead to them."""
    outside, root = tmp_path / "outside", tmp_path / "data"
    for folder in (outside, root):
        write_own_rows(folder, {"query": "a", "positive": "b"}, {"query": "c", "positive": "d"})
        (folder / "pictures").mkdir()
        Image.new("RGB", (30, 30), "red").save(folder / "pictures/p.png")
    (root / "link.jsonl").symlink_to(outside / "own.jsonl")
    (root / "linked").symlink_to(outside, target_is_directory=True)
    (root / "link.png").symlink_to(outside / "pictures/p.png")
    return root


ENTRIES = {
    "a glob over the whole disk": "path: '/**/*.jsonl'",
    "a glob above the root": "path: '../**/*.jsonl'",
    "dots behind a wildcard": "path: '*/../../outside/*.jsonl'",
    "dots": "path: ../outside/own.jsonl",
    "dots that go in and out": "path: pictures/../../outside/own.jsonl",
    "a list with one path outside": "path: [own.jsonl, ../outside/own.jsonl]",
    "a link": "path: link.jsonl",
    "a glob that names a link": "path: '*.jsonl'",
    "a folder that is a link": "path: linked",
    "a file behind a link": "path: linked/own.jsonl",
    "a glob behind a link": "path: 'linked/*.jsonl'",
    "a glob over folders that are links": "path: '*/own.jsonl'",
    "pictures on the whole disk": "path: own.jsonl, images: /",
    "pictures above the root": "path: own.jsonl, images: ..",
    "pictures in a link": "path: own.jsonl, images: linked/pictures",
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_a_mixture_leads_nowhere_outside(
    entry: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the entry and the remedy; nothing outside is listed."""
    listed: list[str] = []
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(str(path)) or real(path))
    monkeypatch.setattr(os, "walk", lambda path: pytest.fail(f"{path} was searched"))
    mixture = write_mixture(root, f"data_sets: [{{name: mine, format: jsonl, {entry}}}]")
    with pytest.raises(UsageError, match=r"entry 1 \(mine\): ") as caught:
        read_mixture(mixture, root)
    assert "\n" not in str(caught.value)
    assert all(os.path.realpath(path).startswith(str(root)) for path in listed)


@pytest.mark.parametrize(
    "entry",
    [
        "path: ../outside/own.jsonl",
        "path: link.jsonl",
        "path: 'linked/*.jsonl'",
        "path: own.jsonl, images: ../outside/pictures",
    ],
)
def test_a_user_may_allow_paths_outside(entry: str, root: Path) -> None:
    """With `allow_outside` the same entries are read."""
    mixture = write_mixture(root, f"data_sets: [{{name: mine, format: jsonl, {entry}}}]")
    (data_set,) = read_mixture(mixture, root, allow_outside=True)
    assert len(open_rows(root, data_set, allow_outside=True)) == 2
    with pytest.raises(LameError, match="allow_outside"):
        open_rows(root, data_set)


def test_without_the_check_the_link_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is the control: taken out, the guard no longer refuses what the tests above refuse."""
    monkeypatch.setattr(data_root, "lies_inside", lambda *_: True)
    for path in ("link.jsonl", "../outside/own.jsonl"):
        assert len(open_rows(root, DataSet("x", "none", format="jsonl", path=(path,)))) == 2


def test_absolute_paths_and_dots_inside_are_fine(root: Path) -> None:
    """A path counts by where it leads, not by how it is written."""
    for path in (str(root / "own.jsonl"), "pictures/../own.jsonl", "./own.jsonl"):
        assert row_files(root, DataSet("x", "none", format="jsonl", path=(path,)))


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    """The user names it, so wherever it leads is inside."""
    (tmp_path / "alias").symlink_to(root, target_is_directory=True)
    assert row_files(tmp_path / "alias", DataSet("x", "none", format="jsonl", path=("own.jsonl",)))


@pytest.mark.parametrize("name", ["../outside/train/x", "/etc/x", "a\0b"])
def test_the_name_of_a_data_set_is_no_way_out(name: str, root: Path) -> None:
    """Without a path, the name is one."""
    with pytest.raises(UsageError):
        row_files(root, DataSet(name, "none"))


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(root: Path) -> None:
    """As rows, in a folder, as the mixture in the root, and behind a name alone."""
    (root / "shards").mkdir()
    (root / "train").mkdir()
    for name in ("rows.jsonl", "shards/a.jsonl", "train/x.parquet", "mixture.yaml"):
        os.mkfifo(root / name)
    for path in (("rows.jsonl",), ("shards",), ("shards/*.jsonl",), ()):
        with pytest.raises(StorageError, match="is a pipe, not a regular file"):
            row_files(root, DataSet("x", "none", format="jsonl", path=path))
    with pytest.raises(StorageError, match=r"mixture\.yaml: .*is a pipe"):
        data_sets(root)
    with pytest.raises(StorageError, match=r"mixture\.yaml: .*is a pipe"):
        read_mixture(root / "mixture.yaml", root)


def test_a_search_passes_over_links_that_nobody_named(root: Path) -> None:
    """Without a mixture, a folder of pictures elsewhere is no reason to refuse the rest."""
    write_mmeb_rows(root, {"qry": "q", "pos_text": "a"}, {"qry": "r", "pos_text": "b"})
    (root / "train/away.parquet").symlink_to(root.parent / "outside/x.parquet")
    assert [data_set.name for data_set in data_sets(root)] == ["x"]


def test_two_stars_do_not_enter_links(root: Path) -> None:
    """A link to a parent would otherwise give every file again and again."""
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "link.jsonl").unlink()
    files = row_files(root, DataSet("x", "none", format="jsonl", path=("**/*.jsonl",)))
    assert files == [root / "own.jsonl"]


PICTURES = {
    "a link": ("link.png", "leads out of"),
    "a picture in a folder that is a link": ("linked/pictures/p.png", "leads out of"),
    "dots": ("pictures/../../outside/pictures/p.png", "lies outside"),
    "an absolute path": ("/etc/passwd.png", "lies outside"),
}


@pytest.mark.parametrize(("picture", "message"), PICTURES.values(), ids=PICTURES)
def test_a_row_leads_nowhere_outside(picture: str, message: str, root: Path) -> None:
    """In every format: our own, MMEB's, pages by path, videos and frames."""
    own = write_own_rows(
        root, {"query": "a", "positive": "b"}, {"query": "a", "positive": {"image": picture}}
    )
    frames = write_own_rows(
        root, {"query": {"video": [picture]}, "positive": "b"}, name="frames.jsonl"
    )
    videos = write_own_rows(
        root, {"query": {"video": picture}, "positive": "b"}, name="videos.jsonl"
    )
    write_mmeb_rows(root, {"qry": "q", "pos_text": "a", "neg_image_path": picture})
    for data_set in (own, frames, videos, DataSet("x", "none")):
        with pytest.raises(InputError, match=rf"row \d: .*{message}"):
            open_rows(root, data_set)


def test_frames_in_a_folder_that_is_a_link_are_refused(root: Path) -> None:
    """A video of LLaVA-Hound is a folder, which is listed to find its frames."""
    turns = [{"value": "a"}, {"value": "b"}]
    write_own_rows(root, {"video": "linked/pictures", "conversations": turns})
    data_set = DataSet("x", "none", format="llava-hound-qa", path=("own.jsonl",))
    with pytest.raises(InputError, match=r"row 1: .*leads out of"):
        open_rows(root, data_set)


def test_links_to_pictures_may_be_allowed(root: Path) -> None:
    """Data sets are often put together of links to a larger disk."""
    pictures = ("link.png", "linked/pictures/p.png", "pictures/p.png")
    own = write_own_rows(root, *({"query": name, "positive": {"image": name}} for name in pictures))
    assert len(open_rows(root, own, allow_outside=True)) == 3


def test_what_is_no_picture_is_left_out_by_its_kind(root: Path) -> None:
    """A folder, a pipe, a device and a name that is none; a folder is not said to lie outside."""
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/null")
    names = (
        ".",
        "./",
        "pictures",
        "pictures/..",
        "pipe.png",
        "a\0b.png",
        "gone\ud83d.png",
        "x" * 5000,
    )
    rows = [{"query": "q", "positive": {"image": name}} for name in names]
    lines = [
        json.dumps(row) + "\n"
        for row in [*rows, {"query": "q", "positive": "p"}, {"query": "q", "positive": "r"}]
    ]
    (root / "own.jsonl").write_text("".join(lines), encoding="utf-8")
    start = time.monotonic()
    opened = open_rows(root, DataSet("x", "none", format="jsonl", path=("own.jsonl",)))
    assert time.monotonic() - start < 20  # nothing waits for the pipe
    assert opened.skipped == Counter(
        {"picture is a folder": 4, "picture is not a regular file": 1, "picture missing": 3}
    )
    write_own_rows(root, {"query": "q", "positive": {"image": "zero.png"}}, rows[0])
    with pytest.raises(InputError, match="is not a regular file"):
        open_rows(
            root, DataSet("x", "none", format="jsonl", path=("own.jsonl",)), allow_outside=True
        )


def test_a_saved_data_set_opens_no_other_file(root: Path, tmp_path: Path) -> None:
    """Its `state.json` lists its files, and could list any."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    columns = ("qry", "qry_image_path", "pos_text", "pos_image_path")
    for folder in (root / "saved", tmp_path / "outside/saved"):
        Dataset.from_dict({column: ["a", "b"] for column in columns}).save_to_disk(str(folder))
    state = json.loads((root / "saved/state.json").read_text())
    (name,) = (entry["filename"] for entry in state["_data_files"])
    data_set = DataSet("x", "none", path=("saved",))
    for other in (f"../../outside/saved/{name}", "/etc/passwd", "..", 3):
        state["_data_files"] = [{"filename": other}]
        (root / "saved/state.json").write_text(json.dumps(state))
        with pytest.raises(InputError, match=r"state\.json: names .*, which is not a file in the"):
            open_rows(root, data_set)
    for text in ("[", "[" * 100_000, "{}", '{"_data_files": 3}', "null"):
        (root / "saved/state.json").write_text(text)
        with pytest.raises(LameError):
            open_rows(root, data_set)


BOMBS = {
    "brackets": "[" * 5000,
    "braces": "{a: " * 5000,
    "a billion laughs": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
    ),
    "merges of merges": "a: &a {x: 1}\n"
    + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join([f'*{chr(97 + n)}'] * 9)}]}}\n"
        for n in range(9)
    ),
    "an alias that holds itself": "data_sets: &a [*a]",
    "an alias of nothing": "data_sets: *a",
    "many values": f"data_sets: [{'x, ' * 200_000}x]",
    "many keys": "{" + "".join(f"k{n}: 1, " for n in range(100_000)) + "}",
    "too many bytes": "#" * (2 << 20),
    "no text": "data_sets: !!bool maybe",
    "no time": "data_sets: !!timestamp x",
    "no number": "data_sets: !!int x",
    "code": "data_sets: !!python/object/apply:os.system [ls]",
    "no date": "data_sets: 2001-99-99",
    "a key that is none": "{[a]: b}",
    "digits": f"data_sets: {'9' * 5000}",
    "a null": "data_sets: \0",
    "no Unicode": 'data_sets: [{name: x, instruction: "\\ud83d"}]',
    "a name with escape sequences": 'data_sets: [{name: "\\e[31m", path: own.jsonl}]',
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_yaml_that_is_large_deep_or_wrong_is_one_line(text: str, root: Path) -> None:
    """Within seconds, as `UsageError` or `StorageError`, and printable."""
    mixture = write_mixture(root, text)
    start = time.monotonic()
    with pytest.raises((UsageError, StorageError), match=r"mixture\.yaml") as caught:
        read_mixture(mixture, root)
    assert time.monotonic() - start < 30
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_without_the_count_an_alias_bomb_is_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the control: PyYAML itself takes the bomb, and its text would fill the memory."""
    monkeypatch.setattr(yaml_file, "_check_size", lambda _: None)
    document = yaml_file.load_yaml(write_mixture(root, BOMBS["a billion laughs"]))
    assert len(document["j"]) == 9


@pytest.mark.parametrize(
    "value", ["1e308", "1e-300", ".inf", "-.inf", "1" + "0" * 400, "yes", "[1]", "0"]
)
def test_a_weight_is_in_range(value: str, root: Path) -> None:
    """The sum of two weights of 1e308 is infinite, and nothing could be drawn by it."""
    text = f"data_sets: [{{name: x, format: jsonl, path: own.jsonl, weight: {value}}}]"
    with pytest.raises(UsageError, match="weight is"):
        read_mixture(write_mixture(root, text), root)


def test_a_mixture_may_be_json_and_begin_with_a_mark(root: Path) -> None:
    """JSON is YAML, and editors on Windows begin files with a byte order mark."""
    entry = {"name": "x", "format": "jsonl", "path": "own.jsonl", "weight": 2}
    text = "\ufeff" + json.dumps({"data_sets": [entry]}, indent=1)
    (data_set,) = read_mixture(write_mixture(root, text), root)
    assert data_set.weight == 2


def test_a_mistake_in_a_mixture_is_answered_without_pytorch(root: Path) -> None:
    """Importing it takes seconds, and the mistake is known before."""
    mixture = write_mixture(root, "data_sets: [{name: x, format: jsonl, path: ../own.jsonl}]")
    code = f"""
import sys
from lame_training.__main__ import main
arguments = ["run", "digits-tiny", "--data", {str(root)!r}, "--mixture", {str(mixture)!r}]
print(main([*arguments, "--output", "nowhere"]), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_a_shell_may_hand_over_a_mixture(root: Path) -> None:
    """`--mixture <(…)` is a pipe, but one that the user made for this command."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        file.write("data_sets: [{name: x, format: jsonl, path: own.jsonl}]")
    (data_set,) = read_mixture(Path(f"/dev/fd/{reader}"), root)
    os.close(reader)
    assert data_set.name == "x"


def test_the_command_line_names_the_flag(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--allow-outside` is the remedy, and it works."""
    mixture = write_mixture(
        tmp_path, "data_sets: [{name: x, format: jsonl, path: ../outside/own.jsonl}]"
    )
    command = ["run", "digits-tiny", "--data", str(root), "--mixture", str(mixture), "--dry-run"]
    assert main(command) == 2
    assert "allow others with --allow-outside" in capsys.readouterr().err
    assert main([*command, "--allow-outside"]) == 0
    assert "x: 2 rows" in capsys.readouterr().out
