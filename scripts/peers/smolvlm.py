"""SmolVLA's language model as a folder without weights, so that no hub is needed. Runs in .venv-peers.

The configuration is that of SmolVLM2 500M, of whose 32 layers SmolVLA keeps 16. Its tokenizer is trained on the data
set's own instructions. The published tokenizer has no advantage with random weights. The vocabulary keeps its published
size, so that SmolVLA keeps its 0.45B parameters.
"""

import sys
from pathlib import Path
from typing import Any

TEXT = {
    "model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
    "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280, "rms_norm_eps": 1e-5,
    "rope_theta": 100_000, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 512, "patch_size": 16,
}  # fmt: skip
SCALE = 4  # side, in patches, of the square that becomes one token
PAD = "<pad>"
NAMED = {  # attribute of the tokenizer that transformers and LeRobot read -> special token
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}


def tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE tokenizer trained on `texts`, with SmolVLM's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = [PAD, *NAMED.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, extra_special_tokens=NAMED)


def build(texts: list[str], folder: Path) -> None:
    """Writes the configuration and the processor with its tokenizer into `folder`. texts: instructions."""
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    words = tokenizer(texts)
    ids = {"image_token_id": words.convert_tokens_to_ids(NAMED["image_token"]), "pad_token_id": words.pad_token_id}
    config: Any = SmolVLMConfig  # its signature differs between releases
    config(
        text_config=dict(TEXT), vision_config=dict(VISION), scale_factor=SCALE, dtype="float32", **ids
    ).save_pretrained(folder)  # fmt: skip
    SmolVLMProcessor(SmolVLMImageProcessor(), words, SmolVLMVideoProcessor()).save_pretrained(folder)


if __name__ == "__main__":
    from .dataset import task_words

    build(task_words(Path(sys.argv[1])), Path(sys.argv[2]))
