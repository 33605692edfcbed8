from priorcodec.testing import parametrize_backbones


@parametrize_backbones("sd3")
def test_conformance(check):
    check()
