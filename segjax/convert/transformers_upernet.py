"""Names of UperNetForSemanticSegmentation of Hugging Face's transformers, and of its backbones, as paths of ours.

The rules know the names of published files (openmmlab/upernet-swin-tiny, openmmlab/upernet-convnext-tiny,
microsoft/swin-*, facebook/convnext-*) and those that transformers 5 gives the same modules.
"""

from segjax.convert.mapping import Rule


def swin(prefix: str) -> tuple[Rule, ...]:
    """Swin Transformer; `prefix` is a regular expression without groups."""
    rules = [
        Rule(prefix + r"embeddings\.patch_embeddings\.projection", "backbone/patches"),
        Rule(prefix + r"embeddings\.norm", "backbone/patches_norm"),
        Rule(r".*\.relative_position_index", None),  # a constant
        Rule(prefix + "layernorm", None),  # of the classifier
        Rule(r"(?:backbone\.)?hidden_states_norms\.stage(\d)", r"backbone/norm\1"),
    ]
    parts = {
        "layernorm_before": "norm1",
        r"attention\.(?:self\.query|q_proj)": "attention/query",
        r"attention\.(?:self\.key|k_proj)": "attention/key",
        r"attention\.(?:self\.value|v_proj)": "attention/value",
        r"attention\.(?:self|relative_position_bias)\.relative_position_bias_table": "attention/bias_table",
        r"attention\.(?:output\.dense|o_proj)": "attention/projection",
        "layernorm_after": "norm2",
        r"(?:intermediate\.dense|mlp\.fc1)": "mlp/fc1",
        r"(?:output\.dense|mlp\.fc2)": "mlp/fc2",
    }
    for stage in range(4):
        layer = rf"{prefix}encoder\.layers\.{stage}\."
        rules += [
            Rule(rf"{layer}blocks\.(\d+)\.{theirs}", rf"backbone/stage{stage + 1}_\1/{ours}")
            for theirs, ours in parts.items()
        ]
        rules += [
            Rule(layer + r"downsample\.norm", f"backbone/merge{stage + 2}_norm"),
            Rule(layer + r"downsample\.reduction", f"backbone/merge{stage + 2}"),
        ]
    return tuple(rules)


def convnext(prefix: str) -> tuple[Rule, ...]:
    """ConvNeXt; `prefix` is a regular expression without groups."""
    rules = [
        Rule(prefix + r"embeddings\.patch_embeddings", "backbone/stem"),
        Rule(prefix + r"embeddings\.layernorm", "backbone/stem_norm"),
        Rule(prefix + "layernorm", None),  # of the classifier
        Rule(r"(?:backbone\.)?hidden_states_norms\.stage(\d)", r"backbone/norm\1"),
    ]
    parts = {
        "dwconv": "depthwise",
        "layernorm": "norm",
        "pwconv1": "mlp/fc1",
        "pwconv2": "mlp/fc2",
        "layer_scale_parameter": "layer_scale",
    }
    for stage in range(4):
        theirs_stage = rf"{prefix}encoder\.stages\.{stage}\."
        rules += [
            Rule(rf"{theirs_stage}layers\.(\d+)\.{theirs}", rf"backbone/stage{stage + 1}_\1/{ours}")
            for theirs, ours in parts.items()
        ]
        rules += [
            Rule(theirs_stage + r"downsampling_layer\.0", f"backbone/down{stage + 1}_norm"),
            Rule(theirs_stage + r"downsampling_layer\.1", f"backbone/down{stage + 1}"),
        ]
    return tuple(rules)


def conv_module(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """A UperNetConvModule is a ConvBlock."""
    return Rule(theirs + r"\.conv", ours + "/conv"), Rule(theirs + r"\.batch_norm", ours + "/norm")


UPERNET = (
    *swin(r"(?:backbone\.)?(?:swin\.)?"),
    *convnext(r"(?:backbone\.)?(?:convnext\.)?"),
    *(
        rule
        for index, bins in enumerate((1, 2, 3, 6))
        for rule in conv_module(rf"decode_head\.psp_modules\.{index}\.1", f"pyramid{bins}")
    ),
    *conv_module(r"decode_head\.bottleneck", "pyramid"),
    *(
        rule
        for index, level in enumerate((4, 8, 16))
        for theirs, ours in (("lateral_convs", "lateral"), ("fpn_convs", "level"))
        for rule in conv_module(rf"decode_head\.{theirs}\.{index}", f"{ours}{level}")
    ),
    *conv_module(r"decode_head\.fpn_bottleneck", "head/conv"),
    Rule(r"decode_head\.classifier", "head/logits"),
    *conv_module(r"auxiliary_head\.convs\.0", "auxiliary_head/conv"),
    Rule(r"auxiliary_head\.classifier", "auxiliary_head/logits"),
    Rule("classifier", None),
)
"""On Swin or ConvNeXt, or one of these trained on ImageNet, whose classifier is left out. Such a file has no norms of
the stages' outputs: config.init.allow_missing="backbone/norm".
"""

RULES: dict[str, tuple[Rule, ...]] = {"upernet": UPERNET}

BACKBONES: dict[str, tuple[Rule, ...]] = {
    "convnext": (*convnext(r"convnext\."), Rule("classifier", None)),
    "swin": (*swin(r"swin\."), Rule("classifier", None)),
}
"""By the beginning of our backbone's name: rules for classifiers."""
