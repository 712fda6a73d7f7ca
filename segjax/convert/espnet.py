"""Names in the ESPNet authors' checkpoints as paths of ours, of ESPNet-C and of the whole network."""

from segjax.convert.mapping import Rule


def esp(theirs: str, ours: str, norm: str = "") -> tuple[Rule, ...]:
    """An ESP module: reduction `c1`, dilated convolutions `d1` to `d16`, then BatchNorm and PReLU (below `norm`)."""
    return (
        Rule(theirs + r"\.c1\.conv", ours + "/reduce"),
        Rule(theirs + r"\.d(?P<dilation>\d+)\.conv", ours + r"/dilated\g<dilation>"),
        *norm_and_act(theirs + norm, ours),
    )


def norm_and_act(theirs: str, ours: str) -> tuple[Rule, ...]:
    return Rule(theirs + r"\.bn", ours + "/norm"), Rule(theirs + r"\.act", ours + "/act")


ENCODER = r"(?:encoder\.)?"
"""ESPNet-C has its layers at the top."""

RULES: dict[str, tuple[Rule, ...]] = {
    "espnet": (
        Rule(ENCODER + r"level1\.conv", "encoder/level1_conv"),
        *norm_and_act(ENCODER + "level1", "encoder/level1"),
        *norm_and_act(ENCODER + r"b(\d)", r"encoder/concat\1"),
        *esp(ENCODER + r"level(\d)_0", r"encoder/level\1_down"),
        *esp(ENCODER + r"level(\d)\.(\d+)", r"encoder/level\1_esp\2", r"\.bn"),
        Rule(ENCODER + r"classifier\.conv", "encoder/head"),
        Rule(r"level3_C\.conv", "project2"),
        Rule(r"br", "norm3"),
        Rule(r"up_l3\.0", "up3_conv", transposed=True),
        *norm_and_act(r"combine_l2_l3\.0", "concat_decoder2"),
        *esp(r"combine_l2_l3\.1", "decoder2", r"\.bn"),
        Rule(r"up_l2\.0", "up2_conv", transposed=True),
        *norm_and_act(r"up_l2\.1", "up2"),
        Rule(r"conv\.conv", "decoder1_conv"),
        *norm_and_act("conv", "decoder1"),
        Rule(r"classifier", "head", transposed=True),
    )
}
