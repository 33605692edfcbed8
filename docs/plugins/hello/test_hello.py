from priorcodec.testing import parametrize_backbones


@parametrize_backbones("hello")
def test_conformance(check):
    check()
