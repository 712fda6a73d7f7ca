"""Names of Mask2FormerForUniversalSegmentation of Hugging Face's transformers as paths of ours.

The rules know the names of published files (facebook/mask2former-swin-*) and those that transformers 5 gives the same
modules. On a ResNet, of which no files are published there, they are transformers' ResNetBackbone's.
"""

from segjax.convert.mapping import Rule
from segjax.convert.transformers_upernet import swin

BACKBONE = r"model\.pixel_level_module\.encoder\."
PIXEL_DECODER = r"model\.pixel_level_module\.decoder\."
TRANSFORMER = r"model\.transformer_module\."


def resnet(prefix: str) -> tuple[Rule, ...]:
    """ResNet; `prefix` is a regular expression without groups."""
    rules = []
    for theirs, ours in (("convolution", "conv"), ("normalization", "norm")):
        rules.append(Rule(rf"{prefix}embedder\.embedder\.{theirs}", f"backbone/conv1/{ours}"))
        for stage in range(4):
            layer, path = rf"{prefix}encoder\.stages\.{stage}\.layers\.(\d+)\.", rf"backbone/layer{stage + 1}_\1/"
            rules.append(Rule(rf"{layer}shortcut\.{theirs}", f"{path}downsample/{ours}"))
            rules += [Rule(rf"{layer}layer\.{i}\.{theirs}", f"{path}conv{i + 1}/{ours}") for i in range(3)]
    return tuple(rules)


def _pixel_decoder() -> tuple[Rule, ...]:
    ours, layer = "pixel_decoder/", PIXEL_DECODER + r"encoder\.layers\.(\d+)\."
    parts = {
        r"self_attn\.sampling_offsets": "attention/offsets",
        r"self_attn\.attention_weights": "attention/weights",
        r"self_attn\.value_proj": "attention/value",
        r"self_attn\.output_proj": "attention/out",
        "self_attn_layer_norm": "attention_norm",
        "fc1": "ffn/fc1",
        "fc2": "ffn/fc2",
        "final_layer_norm": "ffn/norm",
    }
    inputs = [(rf"input_projections\.{index}", f"input{level}") for index, level in enumerate((32, 16, 8))]
    return (
        Rule(PIXEL_DECODER + "level_embed", ours + "levels/embedding"),
        Rule(PIXEL_DECODER + "mask_projection", ours + "mask_features"),
        *(
            Rule(rf"{PIXEL_DECODER}{theirs}\.{index}", f"{ours}{name}{suffix}")
            for theirs, name in (*inputs, ("adapter_1", "lateral4"), ("layer_1", "level4"))
            for index, suffix in enumerate(("", "_norm"))
        ),
        *(Rule(layer + theirs, rf"{ours}encoder\1/{name}") for theirs, name in parts.items()),
    )


def _transformer() -> tuple[Rule, ...]:
    layer = TRANSFORMER + r"decoder\.layers\.(\d+)\."
    parts = {
        r"cross_attn\.out_proj": "cross/out",
        "cross_attn_layer_norm": "cross_norm",
        r"self_attn\.q_proj": "self/query",
        r"self_attn\.k_proj": "self/key",
        r"self_attn\.v_proj": "self/value",
        r"self_attn\.out_proj": "self/out",
        "self_attn_layer_norm": "self_norm",
        "fc1": "ffn/fc1",
        "fc2": "ffn/fc2",
        "final_layer_norm": "ffn/norm",
    }
    return (
        Rule(TRANSFORMER + "queries_embedder", "query_positions"),
        Rule(TRANSFORMER + "queries_features", "query_features"),
        Rule(TRANSFORMER + "level_embed", "levels"),
        *(
            Rule(
                rf"{layer}cross_attn\.in_proj_{theirs}",
                tuple(rf"decoder\1/cross/{part}/{ours}" for part in ("query", "key", "value")),
            )
            for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
        ),
        *(Rule(layer + theirs, rf"decoder\1/{name}") for theirs, name in parts.items()),
        Rule(TRANSFORMER + r"decoder\.layernorm", "predictor/norm"),
        *(
            Rule(rf"{TRANSFORMER}decoder\.mask_predictor\.mask_embedder\.{i}\.0", f"predictor/mask{i + 1}")
            for i in range(3)
        ),
        Rule("class_predictor", "predictor/classes"),
    )


MASK2FORMER = (
    *swin(BACKBONE + r"(?:swin\.)?"),
    Rule(BACKBONE + r"hidden_states_norms\.stage(\d)", r"backbone/norm\1"),
    *resnet(BACKBONE),
    *_pixel_decoder(),
    *_transformer(),
    Rule(r"criterion\..*", None),
)
"""On Swin or ResNet."""

RULES: dict[str, tuple[Rule, ...]] = {"mask2former": MASK2FORMER}
