"""Names of the networks of Hugging Face's transformers as paths of ours.

RULES holds, by our model's name, the rules for a file that `model.save_pretrained` wrote, and BACKBONES, by our
backbone's name, those for a classifier's. The layers of SegFormer were renamed in transformers 5: from
`encoder.block.0.1.attention.self.query` to `stages.0.blocks.1.attention.q_proj`. Files have the old names, those of
`state_dict()` are new, and the rules know both.
"""

from segjax.convert.mapping import Rule


def mit(prefix: str) -> tuple[Rule, ...]:
    """The encoder of SegFormer; `prefix` is a regular expression without groups."""
    return tuple(rule for stage in range(4) for rule in _mit_stage(prefix, stage))


def _mit_stage(prefix: str, stage: int) -> tuple[Rule, ...]:
    patches = rf"{prefix}(?:encoder\.patch_embeddings\.{stage}|stages\.{stage}\.patch_embeddings)\."
    block = rf"{prefix}(?:encoder\.block\.{stage}|stages\.{stage}\.blocks)\.(\d+)\."
    ours = rf"backbone/stage{stage + 1}_\1/"
    attention = {
        r"(?:self\.query|q_proj)": "query",
        r"(?:self\.key|k_proj)": "key",
        r"(?:self\.value|v_proj)": "value",
        r"(?:self\.sr|sequence_reduction\.sequence_reduction)": "reduce",
        r"(?:self|sequence_reduction)\.layer_norm": "norm",
        r"(?:output\.dense|o_proj)": "out",
    }
    return (
        Rule(patches + "proj", f"backbone/patch{stage + 1}_conv"),
        Rule(patches + "layer_norm", f"backbone/patch{stage + 1}_norm"),
        Rule(block + "(?:layer_norm_1|layernorm_before)", ours + "norm1"),
        Rule(block + "(?:layer_norm_2|layernorm_after)", ours + "norm2"),
        *(Rule(rf"{block}attention\.{theirs}", f"{ours}attention/{name}") for theirs, name in attention.items()),
        Rule(block + r"mlp\.(?:dense|fc)([12])", ours + r"ffn/fc\2"),
        Rule(block + r"mlp\.dwconv\.dwconv", ours + "ffn/depthwise"),
        Rule(
            rf"{prefix}(?:encoder\.layer_norm\.{stage}|stages\.{stage}\.layer_norm)",
            f"backbone/norm{stage + 1}",
        ),
    )


MIT = (*mit(r"(?:segformer\.)?"), Rule("classifier", None))
"""SegformerForImageClassification, whose classifier is left out (nvidia/mit-b0 to b5)."""

SEGFORMER = (
    *mit(r"segformer\."),
    *(
        Rule(rf"decode_head\.linear_(?:c|projections)\.{index}\.proj", f"linear{level}")
        for index, level in enumerate((4, 8, 16, 32))
    ),
    Rule(r"decode_head\.linear_fuse", "head/conv/conv"),
    Rule(r"decode_head\.batch_norm", "head/conv/norm"),
    Rule(r"decode_head\.classifier", "head/logits"),
    Rule("classifier", None),
)
"""SegformerForSemanticSegmentation, or the encoder of a classifier."""

RULES: dict[str, tuple[Rule, ...]] = {"segformer": SEGFORMER}

BACKBONES: dict[str, tuple[Rule, ...]] = {"mit": MIT}
"""By the beginning of our backbone's name."""
