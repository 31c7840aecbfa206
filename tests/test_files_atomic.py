import os
import stat

import pytest

from nni_nas_consistency.errors import FileError
from nni_nas_consistency.files.atomic import write_bytes_atomically, write_text_atomically
from nni_nas_consistency.files.run_folder import open_run


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_write_that_fails_keeps_the_older_file_and_leaves_nothing(tmp_path, monkeypatch, failing):
    path = tmp_path / "file.json"
    path.write_text("old")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(FileError) as error:
        write_text_atomically(path, "new")
    assert str(error.value) == f"{path}: cannot be written (Permission denied); choose a writable folder"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomically(tmp_path / "file.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_the_new_file_is_on_the_disk_and_complete_before_it_takes_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "file.json", []
    path.write_text("old")
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        seen.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def replaced(source, target):
        seen.append(("replace", os.path.getsize(source), os.path.dirname(source), path.read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_text_atomically(path, "new text")
    assert seen == [("fsync", 8), ("replace", 8, str(tmp_path), "old")]
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new text"]


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("old")
    for path, message in (
        (tmp_path / "absent" / "x.json", f"there is no folder {tmp_path / 'absent'}; create it first"),
        (tmp_path / "file" / "x.json", f"there is no folder {tmp_path / 'file'}; create it first"),
        (tmp_path, "is a folder or a device; give the name of a file"),
        (os.devnull, "is a folder or a device; give the name of a file"),
    ):
        with pytest.raises(FileError) as error:
            write_text_atomically(path, "new")
        assert str(error.value) == f"{path}: {message}"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_text_is_written_as_utf_8_with_the_line_ends_it_has(tmp_path):
    write_text_atomically(tmp_path / "page.html", "ä\r\nb\n")
    assert (tmp_path / "page.html").read_bytes() == b"\xc3\xa4\r\nb\n"


def test_bytes_are_written_as_they_are(tmp_path):
    write_bytes_atomically(tmp_path / "plot.png", b"\x89PNG\r\n\xff")
    assert (tmp_path / "plot.png").read_bytes() == b"\x89PNG\r\n\xff"


def test_a_written_file_has_the_permissions_that_the_umask_gives(tmp_path):
    write_text_atomically(tmp_path / "atomic", "text")
    (tmp_path / "plain").write_text("text")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "target")
    write_text_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "target").read_text() == "text"


def killed_write(path, monkeypatch):
    """Write a file, and be killed before it has its name: what would delete the temporary file does not run."""
    with monkeypatch.context() as patch, pytest.raises(FileError):
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        patch.setattr(os, "replace", lambda *_: os.stat("/nowhere"))
        write_text_atomically(path, "text")


def test_what_killed_writes_left_in_a_run_is_deleted_when_the_run_goes_on(tmp_path, monkeypatch):
    folders = [tmp_path, tmp_path / "phase0" / "checkpoints", tmp_path / "mine"]
    with open_run(tmp_path, {"seed": 0}, made_here=["phase*"]):
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".notes.tmp").touch()
            killed_write(folder / "file", monkeypatch)
    assert [len(list(folder.glob("*.tmp"))) for folder in folders] == [2, 2, 2]
    with open_run(tmp_path, {"seed": 0}, made_here=["phase*"]):
        pass
    assert [len(list(folder.glob("*.tmp"))) for folder in folders] == [1, 1, 2]
    assert all((folder / ".notes.tmp").exists() for folder in folders)
