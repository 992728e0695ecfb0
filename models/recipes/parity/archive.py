"""Packs a folder into one compressed file, the same bytes for the same content."""

import tarfile
from pathlib import Path


def pack(folders: list[Path], archive: Path) -> int:
    """Writes the files of `folders` into `archive`, a `.tar.xz`, and returns its size in bytes."""
    archive.parent.mkdir(parents=True, exist_ok=True)

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o644
        return info

    with tarfile.open(archive, "w:xz", preset=9, format=tarfile.USTAR_FORMAT) as tar:
        for folder in folders:
            for file in sorted(folder.iterdir()):
                tar.add(file, arcname=file.name, filter=plain)
    return archive.stat().st_size
