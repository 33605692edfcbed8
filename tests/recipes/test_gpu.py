"""The scripts for one GPU: one step depends on its tensors alone, so that a CUDA graph can replay it."""

from __future__ import annotations

import argparse
import copy
import random

import pytest
import torch
from safetensors.torch import save_file

from priorcodec.core.transforms import EncoderConfig
from priorcodec.training.perceptual import Block, Features, Vgg, View
from priorcodec.training.stlpips import Halve
from recipes.encoder2.transforms import ImageEncoder2
from recipes.gpu import unpack
from recipes.gpu.common import Ensemble, Log, Recorded, differentiate
from recipes.gpu.encoder import Step

SETTINGS = argparse.Namespace(certain=5, pixel=0.3, perceptual=0.7, repetition=7.0)


def step_and_inputs(seed: int = 0) -> tuple[Step, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    config = EncoderConfig(n8=4, n16=4, m=4, m_h=2, n=4, depth8=1, depth16=1, groups=(1, 3))
    features = Features([Block(layers=[(3, 4, 3, 2, 1, True)], residual=False, tap=True)], scale=1.0, shift=0.0)
    vgg = Vgg()
    for module in vgg.modules():
        if isinstance(module, Halve):
            module.filt.fill_(1 / 9)
    step = Step(ImageEncoder2(config), Ensemble(features, vgg, side=96), SETTINGS)
    x = torch.rand(2, 3, 128, 128) * 2 - 1
    view = step.ensemble.view(x, random.Random(seed)).tensors()
    noises = {"noise_z": torch.rand(2, 2, 2, 2), "noise_y": torch.rand(2, 4, 8, 8)}
    return step, {"x": x, "q": torch.tensor([2.0, 8.5]), **noises, **view}


def test_a_step_is_a_function_of_its_tensors():
    step, inputs = step_and_inputs()
    first = step(**inputs)
    gradients = [p.grad.clone() for p in step.parameters]
    kept = [p.grad for p in step.parameters]
    random.seed(1)
    torch.manual_seed(1)
    again = step(**inputs)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, step.parameters, strict=True))
    assert all(a is p.grad for a, p in zip(kept, step.parameters, strict=True))  # a graph writes to these addresses
    assert sum(float(g.abs().sum()) > 0 for g in gradients) > len(gradients) / 2
    other = step(**{**inputs, "gain": inputs["gain"] * 0.5})
    assert not torch.equal(first["d"], other["d"])


def test_a_checkpoint_of_four_files_and_of_a_decoder_finished_later(tmp_path, monkeypatch):
    for name in ("transforms", "entropy", "g_s", "g_p"):
        key = "g_a.weight" if name == "transforms" else f"{name}.weight"
        save_file({key: torch.ones(2, dtype=torch.float16)}, tmp_path / f"{name}.safetensors")
    save_file({"weight": torch.zeros(2, dtype=torch.float16)}, tmp_path / "finished.safetensors")
    for finished, wanted in (([], 1.0), ([tmp_path / "finished.safetensors"], 0.0)):
        monkeypatch.setattr("sys.argv", ["unpack", *map(str, [tmp_path, tmp_path / "out.pt", *finished])])
        unpack.main()
        state = torch.load(tmp_path / "out.pt")["average"]
        assert state.keys() == {"g_a.weight", "entropy.weight", "g_s.weight", "g_p.weight"}
        assert state["g_p.weight"].tolist() == [wanted] * 2 and state["g_s.weight"].dtype == torch.float32


def test_a_gradient_that_is_not_finite_changes_nothing_and_a_large_one_is_clipped():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    differentiate((30 * a).sum(), [a, b])
    assert torch.isclose(a.grad.norm(), torch.tensor(1.0)) and not b.grad.any()
    differentiate((a / 0).sum() - (a / 0).sum(), [a, b])
    assert not a.grad.any() and not b.grad.any()


def test_a_view_takes_the_same_part_of_every_image():
    x = torch.arange(40.0)[:, None] + torch.arange(50.0) / 100
    image = x.expand(2, 3, 40, 50)
    for seed in range(20):
        view = View.draw(random.Random(seed), (40, 50), 24)
        plain = View(**{**vars(view), "gain": torch.ones(3, 1, 1), "offset": torch.zeros(())})
        out = plain(image)
        assert out.shape == (2, 3, 24, 24) and torch.equal(out[0], out[1])
        part = x[view.rows][:, view.columns]
        assert abs(float(part.mean() - out[0, 0].mean())) < 0.02
        upright = out[0, 0].T if view.transposed else out[0, 0]
        assert torch.equal(torch.sign(upright[-1, 0] - upright[0, 0]), torch.sign(part[-1, 0] - part[0, 0]))


def test_a_recorded_step_off_the_device_is_the_step_itself(tmp_path):
    step, inputs = step_and_inputs()
    recorded = Recorded(step, Log(tmp_path / "log.txt"))
    assert torch.equal(recorded(**inputs)["loss"], step(**inputs)["loss"]) and not recorded.graphs


@pytest.mark.gpu
def test_graphs_replay_what_the_step_does(tmp_path):
    step, inputs = step_and_inputs()
    step.model.cuda()
    step.ensemble.cuda()
    log = Log(tmp_path / "log.txt")
    recorded = Recorded(step, log)
    for seed in (0, 1, 2, 3, 0):
        _, inputs = step_and_inputs(seed)
        inputs = {name: value.cuda() for name, value in inputs.items()}
        found = {name: value.clone() for name, value in recorded(**inputs).items()}
        gradients = [p.grad.clone() for p in step.parameters]
        wanted = copy.copy(step)(**inputs)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(gradients, [p.grad for p in step.parameters], rtol=1e-2, atol=1e-4)
    assert recorded.graphs, (tmp_path / "log.txt").read_text()
