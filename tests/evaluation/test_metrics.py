"""Metrics against computations that share no code with them, on five coded files; and where they cannot run."""

import importlib.util
import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from priorcodec.core.errors import ConfigError, ImageError, WeightsError
from priorcodec.evaluation import metrics


def image(seed: int, height: int = 192, width: int = 176) -> np.ndarray:
    """Smooth colors, hard edges and noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    x = np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    x[40:90, 30:100] += rng.integers(-90, 90, 3)
    x[100:150, 20:160:4] -= 70
    return np.clip(x + rng.normal(0, 6, x.shape), 0, 255).astype(np.uint8)


def coded(x: np.ndarray, kind: str, quality: int) -> np.ndarray:
    Image.fromarray(x).save(file := io.BytesIO(), kind, quality=quality)
    return np.array(Image.open(file).convert("RGB"))


FILES = [("JPEG", 5), ("JPEG", 60), ("WEBP", 1), ("WEBP", 80), ("AVIF", 10)]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x := image(i), coded(x, kind, quality)) for i, (kind, quality) in enumerate(FILES)]


def test_psnr_against_integer_arithmetic(pairs):
    for reference, other in pairs:
        squares = sum((int(a) - int(b)) ** 2 for a, b in zip(reference.ravel(), other.ravel(), strict=True))
        wanted = 20 * math.log10(255) - 10 * math.log10(squares / reference.size)
        assert metrics.psnr(reference, other) == pytest.approx(wanted, abs=5e-5)


def msssim_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Wang, Simoncelli, Bovik 2003, in float64: five scales by 2x2 means, 11x11 Gaussian of sigma 1.5, no padding."""
    from scipy.ndimage import correlate1d

    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blur(x):
        return correlate1d(correlate1d(x, taps, axis=0), taps, axis=1)[5:-5, 5:-5]

    total = []
    for c in range(3):
        x, y, product = a[..., c].astype(float), b[..., c].astype(float), 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            mx, my = blur(x), blur(y)
            sxx, syy, sxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
            contrast = (2 * sxy + 58.5225) / (sxx + syy + 58.5225)
            luminance = (2 * mx * my + 6.5025) / (mx**2 + my**2 + 6.5025)
            product *= max((contrast * luminance if scale == 4 else contrast).mean(), 0) ** weight
            x, y = (v[: v.shape[0] // 2 * 2, : v.shape[1] // 2 * 2] for v in (x, y))
            x, y = (v.reshape(v.shape[0] // 2, 2, v.shape[1] // 2, 2).mean((1, 3)) for v in (x, y))
        total.append(product)
    return float(np.mean(total))


def test_msssim_against_numpy(pairs):
    for reference, other in pairs:
        assert metrics.msssim(reference, other) == pytest.approx(msssim_by_hand(reference, other), abs=5e-5)


def stlpips_weights(net: str) -> dict:
    import torch

    spec = importlib.util.find_spec("stlpips_pytorch")
    path = Path(spec.submodule_search_locations[0]) / "weights" / "vST0.0" / f"{net}_shift_tolerant.pth"
    return torch.load(path, map_location="cpu", weights_only=True)


def stlpips_alex_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Ghildyal & Liu 2022 from the weight file alone: AlexNet with stride 1, blurs after and reflect padding."""
    import torch
    from torch.nn import functional as F

    w = stlpips_weights("alex")

    def conv(x, name, pad):
        return F.conv2d(x, w[f"net.{name}.weight"], w[f"net.{name}.bias"], padding=pad)

    def halve(x, name):
        return F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), w[f"net.{name}.filt"], stride=2, groups=x.shape[1])

    def features(image):
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        x = (x - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(
            1, 3, 1, 1
        )
        f1 = halve(conv(x, "slice1.0", 2), "slice1.1").relu()
        f2 = conv(halve(F.max_pool2d(f1, 3, 1), "slice2.4"), "slice2.5", 2).relu()
        f3 = conv(halve(F.max_pool2d(f2, 3, 1), "slice3.8"), "slice3.9", 1).relu()
        f4 = conv(f3, "slice4.11", 1).relu()
        return [
            f / f.square().sum(1, keepdim=True).sqrt().add(1e-10)
            for f in (f1, f2, f3, f4, conv(f4, "slice5.13", 1).relu())
        ]

    layers = zip(features(a), features(b), strict=True)
    return sum(float(F.conv2d((x - y) ** 2, w[f"lin{i}.model.1.weight"]).mean()) for i, (x, y) in enumerate(layers))


def test_stlpips_alex_from_the_weight_file(pairs):
    pytest.importorskip("stlpips_pytorch")
    for reference, other in pairs:
        assert metrics.stlpips_alex(reference, other) == pytest.approx(stlpips_alex_by_hand(reference, other), abs=5e-5)


def stlpips_vgg_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """The same with VGG-16: 3x3 convolutions, 2x2 maxima at stride 1 and blurs at stride 2 between five stages."""
    import torch
    from torch.nn import functional as F

    w = stlpips_weights("vgg")

    def features(image):
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        x = (x - w["scaling_layer.shift"]) / w["scaling_layer.scale"]
        found = []
        for stage in range(1, 6):
            layers = sorted({int(name.split(".")[2]) for name in w if name.startswith(f"net.slice{stage}.")})
            for layer in layers:
                name = f"net.slice{stage}.{layer}"
                if f"{name}.filt" in w:
                    x = F.pad(F.max_pool2d(x, 2, 1), (2, 2, 2, 2), "reflect")
                    x = F.conv2d(x, w[f"{name}.filt"], stride=2, groups=x.shape[1])
                else:
                    x = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1).relu()
            found.append(x / x.square().sum(1, keepdim=True).sqrt().add(1e-10))
        return found

    layers = zip(features(a), features(b), strict=True)
    return sum(float(F.conv2d((x - y) ** 2, w[f"lin{i}.model.1.weight"]).mean()) for i, (x, y) in enumerate(layers))


def test_stlpips_vgg_from_the_weight_file(pairs):
    pytest.importorskip("stlpips_pytorch")
    for reference, other in ((a[40:136, 30:126], b[40:136, 30:126]) for a, b in pairs):
        assert metrics.stlpips_vgg(reference, other) == pytest.approx(stlpips_vgg_by_hand(reference, other), abs=5e-5)


def test_stlpips_imports_nothing_but_its_weights():
    """The package itself wants IPython, torchsummary and torchvision: none of them may be asked for."""
    pytest.importorskip("stlpips_pytorch")
    code = (
        "import sys; sys.modules |= dict.fromkeys(['IPython', 'torchsummary', 'torchvision', 'stlpips_pytorch.stlpips']);"
        "import numpy as np; from priorcodec.evaluation import metrics;"
        "x = np.zeros((32, 32, 3), np.uint8); print(metrics.score(x, x + 9, ['stlpips_alex'])['stlpips_alex'] > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "True", done.stderr


def test_remembered_reference_changes_nothing(pairs):
    pytest.importorskip("stlpips_pytorch")
    (a, a2), (b, b2) = pairs[0], pairs[1]
    first = metrics.stlpips_alex(a, a2)
    assert metrics.stlpips_alex(b, b2) != pytest.approx(first, abs=1e-3)
    assert metrics.stlpips_alex(a, a2) == first


def test_ssimulacra2_against_the_package_on_files(pairs, tmp_path):
    package = pytest.importorskip("ssimulacra2")
    for i, (reference, other) in enumerate(pairs):
        Image.fromarray(reference).save(tmp_path / f"{i}r.png")
        Image.fromarray(other).save(tmp_path / f"{i}d.png")
        wanted = package.compute_ssimulacra2(str(tmp_path / f"{i}r.png"), str(tmp_path / f"{i}d.png"))
        assert metrics.ssimulacra2(reference, other) == pytest.approx(wanted, abs=5e-5)


def test_every_metric_knows_which_way_is_better(pairs):
    good, bad = coded(pairs[0][0], "JPEG", 90), coded(pairs[0][0], "JPEG", 3)
    names, _ = metrics.available()
    assert {"psnr", "msssim"} <= set(names)
    better, worse = (metrics.score(pairs[0][0], x, names) for x in (good, bad))
    for name in names:
        assert (better[name] > worse[name]) == metrics.METRICS[name].higher_is_better, name


def test_equal_images_are_perfect(pairs):
    x = pairs[0][0]
    assert metrics.psnr(x, x) == math.inf
    assert metrics.msssim(x, x) == pytest.approx(1)


def test_rate_counts_bytes():
    assert metrics.bpp(4916, 512, 768) == pytest.approx(0.100016, abs=1e-6)


def test_sizes_must_agree():
    with pytest.raises(ImageError, match=r"image is 176x191, reference is 176x192; score"):
        metrics.score(image(0), image(0, height=191), ["psnr"])


@pytest.mark.parametrize(
    "wrong", [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3)), np.zeros((64, 64, 4), np.uint8)]
)
def test_only_8_bit_rgb(wrong):
    with pytest.raises(ImageError, match="convert it to 8-bit RGB"):
        metrics.score(wrong, wrong, ["psnr"])


def test_too_small_for_five_scales_is_no_score():
    x = image(0, height=160)
    assert metrics.score(x, x, ["msssim"]) == {"msssim": None}


def test_unknown_metric():
    with pytest.raises(ConfigError, match="no metric 'vmaf'; choose from resnet_lpips"):
        metrics.missing("vmaf")


def test_missing_weights_are_one_line(tmp_path, monkeypatch):
    pytest.importorskip("lpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    line = metrics.missing("lpips_alex")
    assert line and "alexnet-owt-7be5be79.pth is not in torch's cache" in line and "\n" not in line
    names, lines = metrics.available(["psnr", "lpips_alex"])
    assert names == ["psnr"] and lines == [line]
    with pytest.raises(WeightsError, match="not in torch's cache"):
        metrics.score(image(0), image(0), ["lpips_alex"])


@pytest.mark.slow
def test_lpips_and_dists_run_once_their_weights_are_there(tmp_path, monkeypatch):
    """Random weights under the real file names: proves the loading and the direction, not the published figures."""
    pytest.importorskip("lpips")
    pytest.importorskip("DISTS_pytorch")
    import torch
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(models.alexnet(weights=None).state_dict(), folder / "alexnet-owt-7be5be79.pth")
    torch.save(models.vgg16(weights=None).state_dict(), folder / "vgg16-397923af.pth")
    metrics._lpips.cache_clear()
    metrics._dists.cache_clear()
    try:
        x = image(0)
        scores = metrics.score(x, coded(x, "JPEG", 3), ["lpips_alex", "dists"])
        assert all(value > 0 for value in scores.values())
        assert metrics.score(x, x, ["lpips_alex", "dists"]) == pytest.approx({"lpips_alex": 0, "dists": 0}, abs=1e-5)
    finally:
        metrics._lpips.cache_clear()
        metrics._dists.cache_clear()


def gmsd_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Xue et al. 2014 with scipy in float64: 2x2 means of the luma, Prewitt, T = 170, no borders."""
    from scipy.ndimage import prewitt

    magnitudes = []
    for x in (a, b):
        gray = x.astype(float) @ (0.299, 0.587, 0.114)
        gray = gray[: gray.shape[0] // 2 * 2, : gray.shape[1] // 2 * 2]
        gray = gray.reshape(gray.shape[0] // 2, 2, gray.shape[1] // 2, 2).mean((1, 3))
        magnitudes.append(np.hypot(prewitt(gray, 0), prewitt(gray, 1))[1:-1, 1:-1] / 3)
    m, n = magnitudes
    return float(((2 * m * n + 170) / (m**2 + n**2 + 170)).std(ddof=1))


def test_gmsd_against_scipy_and_by_its_properties(pairs):
    for reference, other in pairs:
        assert metrics.gmsd(reference, other) == pytest.approx(gmsd_by_hand(reference, other), abs=2e-6)
        assert metrics.gmsd(reference, reference) == 0
        assert metrics.gmsd(other, reference) == pytest.approx(metrics.gmsd(reference, other), abs=1e-12)
    x = np.clip(image(9).astype(int), 0, 200)
    brighter = metrics.gmsd(x.astype(np.uint8), (x + 50).astype(np.uint8))
    assert brighter == pytest.approx(0, abs=1e-7)  # brightness is no structure
    blurred = np.array(Image.fromarray(x.astype(np.uint8)).resize((22, 24)).resize((176, 192)))
    assert metrics.gmsd(x.astype(np.uint8), blurred) > 3 * metrics.gmsd(
        x.astype(np.uint8), coded(x.astype(np.uint8), "JPEG", 60)
    )
