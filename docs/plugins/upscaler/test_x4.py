from priorcodec.testing import parametrize_backbones


@parametrize_backbones("x4")
def test_conformance(check):
    check()
