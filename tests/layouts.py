"""One small labelled collection, written to disk in every layout that is read.

Real sources and generators, splits, unequal class counts, picture classes in folders of their own, and names with
dots, upper case, no ending, webp, spaces and letters outside ASCII.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from conftest import encoded, picture

FAMILY = {"progan": "gan", "sdxl-1.0": "diffusion"}


@dataclass(frozen=True)
class Item:
    label: str
    name: str  # of the source or generator
    split: str
    class_: str
    file: str
    data: bytes

    @property
    def row(self) -> dict[str, str]:
        fake = self.label == "fake"
        return {
            "label": self.label,
            "generator": self.name if fake else "",
            "source": self.name,
            "family": FAMILY.get(self.name, ""),
            "split": self.split,
            "class": self.class_,
        }


_NAMES = [
    ("real", "coco", "train", "cat", "a.b.c.jpg", "JPEG"),
    ("real", "coco", "train", "train", "PHOTO.JPG", "JPEG"),
    ("real", "coco", "train", "train", "nosuffix", "JPEG"),
    ("real", "coco", "test", "cat", "image.webp", "WEBP"),
    ("real", "imagenet", "train", "cat", "0001.JPEG", "JPEG"),
    ("real", "imagenet", "test", "cat", "realistic.fake.Png", "PNG"),
    ("fake", "progan", "train", "cat", "v1.0_real.png", "PNG"),
    ("fake", "progan", "train", "train", "two words.PNG", "PNG"),
    ("fake", "progan", "test", "train", "nosuffix", "PNG"),
    ("fake", "sdxl-1.0", "test", "cat/kitten", "\u00fc.webp", "WEBP"),
]


@cache
def items() -> tuple[Item, ...]:
    return tuple(
        Item(*where, encoded(picture(i, 40 + i, 48), form)) for i, (*where, form) in enumerate(_NAMES)
    )  # fmt: skip


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tree(root: Path, place: Callable[[Item], str], *, stated: str = "") -> Path:
    for item in items():
        write(root / place(item) / item.file, item.data)
    family = "".join(f'"{name}" = "{kind}"\n' for name, kind in FAMILY.items())
    (root / "dataset.toml").write_text(f"{stated}\n[family]\n{family}")
    return root


def flat(root: Path) -> list[dict[str, str]]:
    """The images in one folder under other names, and their rows."""
    rows = []
    for i, item in enumerate(items()):
        write(root / "images" / f"{i}-{item.file}", item.data)
        rows.append({"file": f"images/{i}-{item.file}"} | item.row)
    return rows


def as_jsonl(root: Path) -> Path:
    rows = flat(root)
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def as_csv(root: Path) -> Path:
    rows = flat(root)
    with (root / "list.CSV").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / "list.CSV"


def as_parquet(root: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(flat(root)), root / "list.parquet")
    return root / "list.parquet"


def as_parquet_of_images(root: Path) -> Path:
    """As the `datasets` library writes: shards of a split, a struct of bytes and path, numbers for classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir(parents=True, exist_ok=True)
    features = {"info": {"features": {"label": {"names": ["fake", "real"], "_type": "ClassLabel"}}}}
    for split in sorted({item.split for item in items()}):
        rows = [
            {**item.row, "label": int(item.label == "real"), "image": {"bytes": item.data, "path": item.file}}
            for item in items()
            if item.split == split
        ]
        table = pa.Table.from_pylist([{k: v for k, v in r.items() if k != "split"} for r in rows])
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet", row_group_size=3)
    return root


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def stem(file: str) -> str:
    return file.rpartition(".")[0] or file


def as_shards(root: Path) -> Path:
    """A folder a split, which alone tells it, two shards in each; values before and behind their image."""
    for split in ("train", "test"):
        mine = [item for item in items() if item.split == split]
        for n, part in enumerate((mine[::2], mine[1::2])):
            (root / split).mkdir(parents=True, exist_ok=True)
            with tarfile.open(root / split / f"{n:04}.tar", "w") as tar:
                for i, item in enumerate(part):
                    values = {k: v for k, v in item.row.items() if k != "split"}
                    members = [
                        (f"{i}/{item.file}", item.data),
                        (f"{i}/{stem(item.file)}.json", json.dumps(values).encode()),
                    ]
                    for name, data in members if i % 2 else reversed(members):
                        add(tar, name, data)
    return root


def as_one_tar(root: Path) -> Path:
    """One shard; the label in `.cls`, the rest in `.json`."""
    with tarfile.open(root / "all.tar", "w") as tar:
        for i, item in enumerate(items()):
            values = {k: v for k, v in item.row.items() if k != "label"}
            add(tar, f"{i:04}.cls", item.label.encode() if i % 2 else str(int(item.label == "fake")).encode())
            add(tar, f"{i:04}{item.file[item.file.rfind('.') :] if '.' in item.file else ''}", item.data)
            add(tar, f"{i:04}.json", json.dumps(values).encode())
    return root / "all.tar"


def word(real: str, fake: str) -> Callable[[Item], str]:
    return lambda item: fake if item.label == "fake" else real


ZERO_ONE, AI, PLAIN = word("0_real", "1_fake"), word("nature", "ai"), word("Real", "FAKE")

LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "forensynths": lambda r: tree(r, lambda i: f"{i.split}/{i.name}/{i.class_}/{ZERO_ONE(i)}"),
    "classes below the label": lambda r: tree(r, lambda i: f"{i.split}/{i.name}/{ZERO_ONE(i)}/{i.class_}"),
    "real and fake": lambda r: tree(r, lambda i: f"{PLAIN(i)}/{i.name}/{i.split}/{i.class_}"),
    "splits first": lambda r: tree(r, lambda i: f"{i.split}/{PLAIN(i)}/{i.name}/{i.class_}"),
    "genimage": lambda r: tree(r, lambda i: f"{i.name}/{i.split}/{AI(i)}/{i.class_}"),
    "folder a class": lambda r: tree(
        r, lambda i: f"{i.name}/{i.split}/{i.class_}", stated='real = ["coco", "imagenet"]'
    ),
    "split, folder a class": lambda r: tree(
        r, lambda i: f"{i.split}/{i.name}/{i.class_}", stated='real = ["imagenet", "coco"]'
    ),
    "jsonl": as_jsonl,
    "csv": as_csv,
    "parquet": as_parquet,
    "parquet of images": as_parquet_of_images,
    "shards": as_shards,
    "one tar": as_one_tar,
}
