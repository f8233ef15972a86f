from __future__ import annotations

import glob
import hashlib
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import encoded, picture
from layouts import LAYOUTS, write
from test_layouts import expected, shard, told
from univfd import suites
from univfd.errors import DataError, FormatError, UnknownNameError
from univfd.sources import read_bytes
from univfd.suites import Subset, Suite, open_suite
from univfd.types import Label

HEAD = 'name = "n"\ntitle = "t"\nurl = "u"\nget = "g"\nroot = "r"\n'


def image(i: int) -> bytes:
    return encoded(picture(i, 24, 24), "PNG")


def lay(root: Path, suite: Suite, *, each: int = 1, wild: str = "class") -> None:
    """Some images in each folder of a suite, and nothing else."""
    made = 0
    for subset in suite.subsets:
        for pattern in (*subset.real, *subset.fake):
            for i in range(each):
                place = root / subset.folder[-1] / pattern.replace("*", wild)
                write(place / f"{i}.v1.PNG", image(made))
                made += 1


@pytest.mark.parametrize("name", suites.names())
def test_a_shipped_suite_reads_what_lies_as_it_says(name: str, tmp_path: Path) -> None:
    suite = open_suite(name)
    assert suite.name == name
    assert suite.url.startswith("https://")
    assert suite.title
    assert suite.get
    assert suite.root
    lay(tmp_path, suite)
    samples = list(suite.samples(tmp_path, partial=True))
    assert len(samples) == 2 * len(suite.subsets)
    for subset, (real, fake) in zip(suite.subsets, zip(samples[::2], samples[1::2], strict=True), strict=True):
        assert (real.label, real.generator, real.family, real.source) == (Label.REAL, "", "", subset.source)
        assert (fake.label, fake.generator, fake.family) == (Label.FAKE, subset.generator, subset.family)
        assert real.subset == fake.subset == subset.name
        assert real.split == fake.split == subset.split
        assert ("class" in fake.extra) == glob.has_magic(subset.fake[0])


def test_the_papers_nineteen_sets_in_its_order() -> None:
    suite = open_suite("universalfakedetect")
    assert [s.name for s in suite.subsets] == [
        "progan", "cyclegan", "biggan", "stylegan", "gaugan", "stargan", "deepfake", "sitd", "san", "crn", "imle",
        "guided", "ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27", "glide_50_27", "glide_100_10", "dalle",
    ]  # fmt: skip
    families = [s.family for s in suite.subsets]
    assert families.count("gan") == 6  # over which the paper's GAN means run
    assert families.count("diffusion") + families.count("ar") == 8
    eleven = {s.title: s.count for s in open_suite("forensynths").subsets}
    assert all(dict(eleven[s.title]) == dict(s.count) for s in suite.subsets[:11])


def test_shared_reals_come_with_each_subset_and_shared_names_stay_apart(tmp_path: Path) -> None:
    suite = open_suite("synthbuster")
    lay(tmp_path, suite, each=2)
    samples = list(suite.samples(tmp_path, only=["firefly", "dalle2"], partial=True))
    assert [(s.subset, s.label.word, s.source) for s in samples] == [
        (name, *kind) for name in ("dalle2", "firefly") for kind in [("real", "raise")] * 2 + [("fake", name)] * 2
    ]
    reals = [read_bytes(s.ref) for s in samples if s.label is Label.REAL]
    assert reals[:2] == reals[2:]


def test_all_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    suite = open_suite("universalfakedetect")
    lay(tmp_path, suite)
    for name in ("datasets/test/biggan/0_real", "diffusion_datasets/laion/0_real"):
        (tmp_path / name).rename(tmp_path / name.replace("/", "-"))
    (tmp_path / "datasets/test/san/1_fake/0.v1.PNG").unlink()
    with pytest.raises(DataError) as error:
        next(suite.samples(tmp_path, partial=True))
    lines = str(error.value).splitlines()
    assert sum("no folder diffusion_datasets/laion/0_real" in line for line in lines) == 7
    assert "  biggan: no folder datasets/test/biggan/0_real" in lines
    assert "  san: 0 fake images; expected 219" in lines
    assert lines[-1].endswith("Nothing is downloaded")
    with pytest.raises(DataError, match="gaugan: 1 real image; expected 5000"):
        next(suite.samples(tmp_path))
    assert len(list(suite.samples(tmp_path, only=["gaugan", "cyclegan"], partial=True))) == 4
    with pytest.raises(DataError, match="is no folder"):
        suite.check(tmp_path / "gone")
    with pytest.raises(UnknownNameError, match="Did you mean gaugan"):
        suite.check(tmp_path, only=["gougan"])


def test_genimage_is_found_under_any_of_its_names_but_not_under_two(tmp_path: Path) -> None:
    suite = open_suite("genimage")
    for place in ("Midjourney", "Midjourney/imagenet_midjourney", "imagenet_midjourney"):
        root = tmp_path / place.replace("/", "-")
        write(root / place / "val/nature/a.JPEG", image(0))
        write(root / place / "val/ai/b.png", image(1))
        assert len(list(suite.samples(root, only=["midjourney"]))) == 2
    write(root / "Midjourney/val/nature/a.JPEG", image(0))
    with pytest.raises(DataError, match=r"no folders val/nature and val/ai in any of Stable Diffusion V1\.4, "):
        next(suite.samples(root))
    write(root / "Midjourney/val/ai/b.png", image(0))
    with pytest.raises(DataError, match="lies twice, in Midjourney and in imagenet_midjourney"):
        next(suite.samples(root, only=["midjourney"]))


def test_a_suite_of_the_users_own_gives_the_same_samples(tmp_path: Path) -> None:
    LAYOUTS["forensynths"](tmp_path / "data")
    text = 'name = "mine"\ntitle = "t"\nurl = "u"\nget = "g"\nroot = "r"\n'
    for split in ("train", "test"):
        for real, fake, family in (("coco", "progan", "gan"), ("imagenet", "sdxl-1.0", "diffusion")):
            text += f'[[subset]]\nname = "{split}-{fake}"\ngenerator = "{fake}"\nsource = "{real}"\n'
            text += f'family = "{family}"\nsplit = "{split}"\nreal = "{split}/{real}/*/0_real"\n'
            deep = "*/*" if fake == "sdxl-1.0" else "*"
            if not (split == "train" and fake == "sdxl-1.0"):  # there is none
                text += f'fake = "{split}/{fake}/{deep}/1_fake"\n'
    (tmp_path / "mine.toml").write_text(text)
    samples = list(open_suite(tmp_path / "mine.toml").samples(tmp_path / "data"))
    assert set(map(told, samples)) == expected()
    assert {s.subset for s in samples} == {f"{s}-{g}" for s in ("train", "test") for g in ("progan", "sdxl-1.0")}


def test_a_folder_that_the_system_knows_by_two_names_is_one(tmp_path: Path) -> None:
    """As where upper and lower case are the same."""
    write(tmp_path / "GLIDE/val/nature/a.png", image(0))
    write(tmp_path / "GLIDE/val/ai/b.png", image(1))
    (tmp_path / "glide").symlink_to(tmp_path / "GLIDE")
    assert len(list(open_suite("genimage").samples(tmp_path, only=["glide"]))) == 2


def test_tars_and_what_cannot_be_reached_count(tmp_path: Path) -> None:
    write(tmp_path / "n.toml", (HEAD + '[[subset]]\nname = "s"\nreal = "r"\nfake = ["f.tar", "g"]\n').encode())
    shard(tmp_path / "f.tar", a__png=image(0), a__txt=b"words", b__png=image(1))
    (tmp_path / "r").mkdir()
    (tmp_path / "g").mkdir()
    (tmp_path / "r" / "x.png").symlink_to("x.png")
    write(tmp_path / "g" / "deep" / "y.png", image(2))
    suite = open_suite(tmp_path / "n.toml")
    (check,) = suite.check(tmp_path)
    assert dict(check.images) == {"real": 1, "fake": 3}
    samples = list(suite.samples(tmp_path))
    assert [s.label.word for s in samples] == ["real", "fake", "fake", "fake"]
    assert samples[3].extra == {"class": "deep"}
    assert samples[3].generator == "s"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected .* entries of different names; got none"),
        ('[[subset]]\nname = "a"\n', "names no folder"),
        ('[[subset]]\nreal = "r"\n', "and a name"),
        ('[[subset]]\nname = "a"\nreal = "/r"\n', "below the root"),
        ('[[subset]]\nname = "a"\nreal = "../r"\n', "below the root"),
        ('[[subset]]\nname = "a"\nreal = "r"\nfamly = "gan"\n', "famly"),
        ('[[subset]]\nname = "a"\nreal = "r"\nfamily = 3\n', "expected text for"),
        ('[[subset]]\nname = "a"\nreal = "r"\ncount = { reals = 3 }\n', "expected { real = N"),
        ('[[subset]]\nname = "a"\nreal = "r"\n' * 2, "different names; got a, a"),
        ("[[", "is not a readable suite"),
    ],
)
def test_a_suite_of_ones_own_is_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.toml").write_text(HEAD + text)
    with pytest.raises(FormatError, match=message):
        open_suite(tmp_path / "s.toml")


def test_unknown_suites_and_defaults() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean forensynths"):
        open_suite("forensynth")
    assert Subset("x").folder == (".",)


def univfd(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "univfd", *map(str, args)], capture_output=True, text=True, check=False
    )


def test_the_command(tmp_path: Path) -> None:
    listed = univfd("suites", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == suites.names()
    assert "19 subsets" in listed
    told = univfd("suites", "info", "synthbuster").stdout
    assert "https://zenodo.org/records/10066460" in told
    assert "  fake  firefly  1,000 images" in told

    root = tmp_path / "data"
    write(root / "r" / "a.png", image(0))
    write(root / "f" / "b.png", image(1))
    write(root / "f.zip", b"published")
    pairs = sorted((hashlib.sha256(image(i)).hexdigest(), word) for i, word in ((0, "real"), (1, "fake")))
    digest = hashlib.sha256("".join(f"{sha} {word}\n" for sha, word in pairs).encode()).hexdigest()
    md5 = hashlib.md5(b"published").hexdigest()
    subset = '[[subset]]\nname = "s"\nreal = "r"\nfake = "f"\nsha256 = "{}"\ncount = {{ real = {} }}\n'
    archive = f'[[archive]]\nfile = "f.zip"\nmd5 = "{md5}"\n[[archive]]\nfile = "g.zip"\nmd5 = "0"\n'
    for name, text in {
        "good": subset.format(digest, 1), "other": subset.format("0" * 64, 1), "more": subset.format(digest, 2)
    }.items():  # fmt: skip
        (tmp_path / f"{name}.toml").write_text(HEAD + text + archive)
    good = univfd("suites", "check", tmp_path / "good.toml", root, "--checksums")
    assert good.returncode == 0
    assert good.stdout.splitlines() == [
        f"ok     {'s':<24} 1 real, 1 fake", f"       digest {digest}", "ok     f.zip", "not there g.zip"
    ]  # fmt: skip
    other = univfd("suites", "check", tmp_path / "other.toml", root, "--checksums")
    assert other.returncode == 2
    assert "other images; expected the digest 000" in other.stdout
    assert univfd("suites", "check", tmp_path / "other.toml", root).returncode == 0
    more = univfd("suites", "check", tmp_path / "more.toml", root)
    assert more.returncode == 2
    assert "s: 1 real image; expected 2" in more.stdout
    write(root / "f.zip", b"other")
    assert univfd("suites", "check", tmp_path / "good.toml", root, "--checksums").returncode == 2


def test_the_docs_example_and_table_are_true(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text("utf-8")
    (tmp_path / "mine.toml").write_text(page.rpartition("```toml\n")[2].partition("```")[0])
    (only,) = open_suite(tmp_path / "mine.toml").subsets
    assert (only.generator, only.source, only.folder, len(only.fake)) == ("sdxl", "coco", ("v2",), 2)
    for name in suites.names():
        n = len(open_suite(name).subsets)
        assert (
            f"| `{name}` | {'the paper' if name == 'progan-train' else n}" in page
            or f"| the {n} of the paper |" in page
        )


def test_a_parquet_shard_counts_as_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "n.toml", (HEAD + '[[subset]]\nname = "s"\nreal = "r"\nfake = "f"\n').encode())
    write(tmp_path / "r" / "x.png", image(0))
    (tmp_path / "f").mkdir()
    pq.write_table(pa.table({"image": [image(1), image(2), image(3)]}), tmp_path / "f" / "s.parquet")
    suite = open_suite(tmp_path / "n.toml")
    (check,) = suite.check(tmp_path)
    assert dict(check.images) == {"real": 1, "fake": 3}
    assert len(list(suite.samples(tmp_path))) == 4
