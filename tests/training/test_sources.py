"""Training images: found in folders and shards, read as `encode` reads them, damaged ones named and left out."""

import gzip
import json
import os
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec.core.errors import TrainingError
from priorcodec.core.image import io as image_io
from priorcodec.training import data, sources
from priorcodec.training.settings import split_paths


def make_image(path, side=64, mode="RGB", seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path, **options)
    return path


def find(*places, folder, background="white"):
    folder.mkdir(exist_ok=True)
    return sources.find([str(place) for place in places], folder, background=background)


def names(entries):
    return [os.path.basename(entry.name) for entry in entries]


def pack(target, *paths, mode="w"):
    with tarfile.open(target, mode) as tar:
        for path in paths:
            tar.add(path, path.name)
    return target


def test_folders_shards_and_files_in_order(tmp_path):
    (tmp_path / "in" / "b").mkdir(parents=True)
    for name in ("b/z.png", "b/a.png", "y.webp", "x.jpg"):
        make_image(tmp_path / "in" / name, side=70)
    pack(tmp_path / "in" / "c.tar", make_image(tmp_path / "one.png", side=66), make_image(tmp_path / "two.avif"))
    pack(tmp_path / "d.tar.gz", tmp_path / "two.avif", tmp_path / "one.png", mode="w:gz")
    found = find(tmp_path / "in", tmp_path / "d.tar.gz", tmp_path / "one.png", folder=tmp_path / "run")
    expected = ["one.png", "two.avif", "x.jpg", "y.webp", "a.png", "z.png", "two.avif", "one.png", "one.png"]
    assert names(found) == expected
    assert [entry.width for entry in found] == [66, 64, 70, 70, 70, 70, 64, 66, 66]
    whole = image_io.load(tmp_path / "one.png").pixels
    assert all(np.array_equal(sources.read(found[i], background=None), whole) for i in (0, 7, 8))


def exif_turned(path):
    exif = Image.Exif()
    exif[274] = 6
    half = np.zeros((64, 64, 3), np.uint8)
    half[:32] = 200
    Image.fromarray(half).save(path, exif=exif, quality=95)


def sixteen_bit_gray(path):
    Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)).save(path)


@pytest.mark.parametrize(
    "name, make",
    [
        ("turned.jpg", exif_turned),
        ("gray16.png", sixteen_bit_gray),
        ("gray16.tif", sixteen_bit_gray),
        ("alpha.webp", lambda path: make_image(path, mode="RGBA", lossless=True)),
        ("palette.png", lambda path: Image.fromarray(np.eye(64, dtype=np.uint8) * 255).convert("P").save(path)),
    ],
)
@pytest.mark.parametrize("in_tar", [False, True])
def test_crops_are_the_pixels_that_encode_reads(tmp_path, name, make, in_tar):
    make(tmp_path / name)
    right = image_io.load(tmp_path / name, background="white").pixels
    place = pack(tmp_path / "a.tar", tmp_path / name) if in_tar else tmp_path / name
    crop = data.DeterministicCrops(find(place, folder=tmp_path / "run"), 64, seed=0)[0, 0].permute(1, 2, 0).numpy()
    assert np.array_equal(crop, right) or np.array_equal(crop, right[:, ::-1])


def test_what_cannot_be_read_is_named_and_left_out(tmp_path, caplog):
    folder = tmp_path / "in"
    folder.mkdir()
    good = make_image(folder / "good.png")
    whole = make_image(tmp_path / "whole.avif", side=128).read_bytes()
    (folder / "cut.avif").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no image")
    Image.fromarray(np.ones((64, 64), np.float32)).save(folder / "float.tif")
    (folder / "link.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "folder.png").mkdir()
    (folder / "around").symlink_to(folder)
    make_image(folder / "folder.png" / "inside.png")
    (folder / "._good.png").write_bytes(b"resource fork")
    os.mkfifo(folder / "pipe.png")
    pack(tmp_path / "sound.tar", good, tmp_path / "whole.avif")
    (folder / "cut.tar").write_bytes((tmp_path / "sound.tar").read_bytes()[:5000])
    (folder / "cut.tar.gz").write_bytes(gzip.compress((tmp_path / "sound.tar").read_bytes())[:3000])
    (folder / "no.tar").write_bytes(os.urandom(2000))
    found = find(folder, folder=tmp_path / "run")
    assert names(found) == ["good.png", "inside.png"]
    lines = [record.getMessage() for record in caplog.records]
    left_out = sorted(os.path.basename(line.split()[2]) for line in lines if line.startswith("left out: "))
    assert left_out == sorted(
        ["cut.avif", "empty.jpg", "text.png", "float.tif", "link.png", "cut.tar", "cut.tar.gz", "no.tar"]
    )
    assert not any("\n" in line for line in lines)


def test_transparent_images_are_left_out_without_a_background(tmp_path, caplog):
    make_image(tmp_path / "clear.png", mode="RGBA")
    make_image(tmp_path / "solid.png")
    both = (tmp_path / "clear.png", tmp_path / "solid.png")
    assert names(find(*both, folder=tmp_path / "run", background=None)) == ["solid.png"]
    assert "left out" in caplog.text and "transparent" in caplog.text
    assert len(find(*both, folder=tmp_path / "run")) == 2  # another background: listed again


@pytest.mark.parametrize("place, part", [("nowhere", "no such folder"), ("empty", "no image in it that can be read")])
def test_no_data_is_one_line(tmp_path, place, part):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=part) as caught:
        find(tmp_path / place, folder=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / sources.INDEX).exists()


def test_damage_that_shows_only_later_is_named_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sources, "DECODED", 0)
    make_image(tmp_path / "a.png", side=80)
    (tmp_path / "b.png").write_bytes(make_image(tmp_path / "whole.png", side=80).read_bytes()[:9000])
    found = find(tmp_path / "a.png", tmp_path / "b.png", folder=tmp_path / "run")
    assert len(found) == 2
    crops = data.DeterministicCrops(found, 64, seed=0)
    first = crops.batch(0, 20)
    assert caplog.text.count("left out") == 1 and "b.png" in caplog.text
    assert torch.equal(first, data.DeterministicCrops(found, 64, seed=0).batch(0, 20))
    (tmp_path / "a.png").unlink()
    with pytest.raises(TrainingError, match="in a row cannot be read"):
        crops.batch(1, 1)
    with pytest.raises(TrainingError, match="^data=: .* in a row cannot be read") as caught:
        next(iter(data.loader(crops, step=0, parts=[[0]], workers=1)))
    assert "\n" not in str(caught.value)


def test_the_index_is_made_once_whoever_comes_first(tmp_path, monkeypatch):
    calls = []
    survey = sources._read_sizes
    monkeypatch.setattr(sources, "_read_sizes", lambda *args: (calls.append(args), survey(*args))[1])
    make_image(tmp_path / "a.png")
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(find(tmp_path / "a.png", folder=tmp_path / "run")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and all(entries == found[0] for entries in found) and len(found) == 4


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"[]", b'{"key": 1}', b"\xff\xfe\x00", b"null"])
def test_a_damaged_index_is_made_again(tmp_path, content):
    make_image(tmp_path / "a.png")
    found = find(tmp_path / "a.png", folder=tmp_path / "run")
    (tmp_path / "run" / sources.INDEX).write_bytes(content)
    assert find(tmp_path / "a.png", folder=tmp_path / "run") == found
    assert json.loads((tmp_path / "run" / sources.INDEX).read_text())["images"]


def test_a_run_folder_inside_the_data_is_left_out(tmp_path, caplog):
    (tmp_path / "data").mkdir()
    pack(tmp_path / "data" / "a.tar.gz", make_image(tmp_path / "a.png"), mode="w:gz")
    for run in ("one", "two"):
        assert len(find(tmp_path / "data", folder=tmp_path / "data" / run)) == 1
        make_image(tmp_path / "data" / run / "samples.png")
    assert [text for text in caplog.messages if "one (a run folder)" in text]


def test_a_run_in_the_data_folder_itself_sees_its_images(tmp_path):
    make_image(tmp_path / "a.png")
    assert names(find(tmp_path, folder=tmp_path)) == ["a.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be read by root")
def test_a_folder_that_cannot_be_read_is_named(tmp_path, caplog):
    (tmp_path / "data").mkdir()
    make_image(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "locked").mkdir(mode=0)
    assert len(find(tmp_path / "data", folder=tmp_path / "run")) == 1
    assert "locked (Permission denied)" in caplog.text


def test_a_link_to_a_pipe_is_left_out(tmp_path):
    (tmp_path / "data").mkdir()
    make_image(tmp_path / "data" / "a.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "data" / "b.png").symlink_to(tmp_path / "pipe")
    assert len(find(tmp_path / "data", folder=tmp_path / "run")) == 1


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_an_unpacked_shard_that_is_gone_or_cut_is_unpacked_again(tmp_path, damage):
    pack(tmp_path / "a.tar.gz", make_image(tmp_path / "a.png"), mode="w:gz")
    found = find(tmp_path / "a.tar.gz", folder=tmp_path / "run")
    (shard,) = (tmp_path / "run" / sources.UNPACKED).iterdir()
    shard.unlink() if damage == "missing" else shard.write_bytes(shard.read_bytes()[:700])
    again = find(tmp_path / "a.tar.gz", folder=tmp_path / "run")
    assert again == found and sources.read(again[0], background=None).shape == (64, 64, 3)


def test_paths_with_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_paths("a,b") == split_paths("[a, b]") == split_paths(" a , b ") == ["a", "b"]
    assert split_paths('"a,b",c') == split_paths('["a,b", c]') == ["a,b", "c"]
    (tmp_path / "a,b").mkdir()
    assert split_paths("a,b") == ["a,b"]


def test_loader_workers_and_later_starts_give_the_same_crops(tmp_path):
    for i in range(3):
        make_image(tmp_path / f"{i}.png", side=80 + i, seed=i)
    crops = data.DeterministicCrops(find(tmp_path, folder=tmp_path / "run"), 64, seed=5)
    parts = [[0, 1], [2, 3]]

    def take(count, **how):
        batches = data.loader(crops, parts=parts, **how)
        return [next(batches) for _ in range(count)]

    plain, workers = take(6, step=0, workers=0), take(6, step=0, workers=2)
    assert all(torch.equal(a, b) for a, b in zip(plain, workers, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain[2:], take(4, step=1, workers=0), strict=True))
    assert torch.equal(torch.cat(plain[:2]), crops.batch(0, 4))
    assert not torch.equal(plain[0], plain[2])


def test_large_images_are_drawn_more_often_and_small_ones_not(tmp_path):
    for name, side in (("small", 60), ("one", 64), ("four", 128)):
        Image.new("RGB", (side, side), {"small": "red", "one": "lime", "four": "blue"}[name]).save(
            tmp_path / f"{name}.png"
        )
    found = find(tmp_path, folder=tmp_path / "run")
    colors = data.DeterministicCrops(found, 64, seed=0).batch(0, 200)[:, :, 0, 0].float().mean(0) / 255
    assert colors[0] == 0 and colors[2] == pytest.approx(0.8, abs=0.1)
    with pytest.raises(TrainingError, match="none of the .* has 192 pixels"):
        data.DeterministicCrops(found, 192, seed=0)


def test_enlarged_crops_are_smoother_parts_of_the_same_ones(tmp_path):
    entries = find(make_image(tmp_path / "a.png", side=110), folder=tmp_path / "run")
    plain, some, again = (
        data.DeterministicCrops(entries, 64, seed=3, enlarged=share).batch(0, 40).float() for share in (0.0, 0.5, 0.5)
    )
    equal = [torch.equal(a, b) for a, b in zip(plain, some, strict=True)]
    assert 8 < sum(equal) < 32 and torch.equal(some, again)
    for before, after, is_same in zip(plain, some, equal, strict=True):
        if not is_same:
            assert after.diff(dim=-1).abs().mean() < 0.8 * before.diff(dim=-1).abs().mean()
