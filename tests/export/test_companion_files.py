from __future__ import annotations

from pathlib import Path

from edge_export.checkpoint.texts import MAX_BYTES, companion_files


def names(folder: Path) -> tuple[list[str], list[str]]:
    warnings: list[str] = []
    return [path.name for path in companion_files(folder, warnings.append)], warnings


def test_licence_and_card_go_along(tmp_path: Path) -> None:
    for name in ("README.md", "LICENSE.txt", "NOTES.md"):
        (tmp_path / name).write_text("words")
    (tmp_path / "LICENSE").mkdir()
    assert names(tmp_path) == (["README.md", "LICENSE.txt"], [])


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (tmp_path / "secret").write_text("key")
    (folder / "terms").write_text("words")
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    (folder / "README.md").symlink_to("terms")
    found, (warning,) = names(folder)
    assert found == ["README.md"]
    assert "LICENSE is a link to" in warning


def test_links_of_the_hubs_cache_are(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abc").write_text("words")
    (snapshot / "LICENSE").symlink_to("../../blobs/abc")
    assert names(snapshot) == (["LICENSE"], [])


def test_a_licence_of_no_reasonable_size(tmp_path: Path) -> None:
    with (tmp_path / "LICENSE").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    found, (warning,) = names(tmp_path)
    assert found == []
    assert "16 MiB" in warning
