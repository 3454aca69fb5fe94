"""Laws of the pretrained planner, on tiny random checkpoints with Idefics3's and Qwen-VL's processors."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from tandem.planner.chat import IGNORED, Chat, message  # noqa: E402
from tandem.planner.hub import PretrainedError, add_lora, linear_layers  # noqa: E402
from tandem.planner.pretrained import PretrainedPlanner, PretrainedPlannerConfig  # noqa: E402

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 1024,
}  # fmt: skip
B, P, K, D, W = 4, 3, 3, 24, 6
TASKS = ["stack the red cube", "open the drawer", "stack the blue cube", "press the button"]
SUBTASKS = ["reach red", "grasp handle", "reach blue", "press"]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(extra: list[str]):
    """Byte-level BPE trained on a few words, with the special tokens a processor looks for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    question = message("stack", "reach", [1, 0], ("front", "wrist"))[0]["content"]
    words = TASKS + SUBTASKS + [c["text"] for c in question if c["type"] == "text"] * 2
    bpe.train_from_iterator(words, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    special = ["<|im_start|>", *extra]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|pad|>", additional_special_tokens=special
    )


def idefics3(folder: Path) -> None:
    extra = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    words = tokenizer([*extra, *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7))])
    image = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=False
    )
    processor = transformers.Idefics3Processor(
        image, words, image_seq_len=4, chat_template=TURNS.replace("IMAGE", "<image>")
    )
    text = TEXT | {"model_type": "llama", "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 4, "initializer_range": 0.2,
    }  # fmt: skip
    config = transformers.Idefics3Config(
        text_config=text, vision_config=vision, image_token_id=processor.image_token_id, scale_factor=2
    )
    write(transformers.Idefics3ForConditionalGeneration(config), processor, folder)


def qwen(folder: Path) -> None:
    words = tokenizer(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])
    ids = words.convert_tokens_to_ids
    image = transformers.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 256}
    )
    processor = transformers.Qwen2_5_VLProcessor(
        image, words, chat_template=TURNS.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    )
    text = TEXT | {
        "vocab_size": len(words), "bos_token_id": None, "eos_token_id": words.eos_token_id,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4, "window_size": 16,
        "out_hidden_size": TEXT["hidden_size"], "fullatt_block_indexes": [0], "initializer_range": 0.2,
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"), vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    write(transformers.Qwen2_5_VLForConditionalGeneration(config), processor, folder)


def write(model, processor, folder: Path) -> None:
    # Sampling habits that a planner must not inherit.
    model.generation_config = transformers.GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=3.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


MAKERS = {"idefics3": idefics3, "qwen": qwen}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny checkpoint of each kind. Qwen's processor comes without its video half, which needs torchvision."""
    with pytest.MonkeyPatch.context() as patch:
        images_and_words = classmethod(lambda _: ["image_processor", "tokenizer"])
        patch.setattr(transformers.Qwen2_5_VLProcessor, "get_attributes", images_and_words)
        root = tmp_path_factory.mktemp("models")
        for name, make in MAKERS.items():
            torch.manual_seed(0)
            make(root / name)
        yield {name: str(root / name) for name in MAKERS}


def config(folder: str, **changes) -> PretrainedPlannerConfig:
    cfg = PretrainedPlannerConfig(
        folder, dtype="float32", subtask_length=W, width=D, goal_tokens=K, heads=4, lora_rank=4, lora_alpha=8
    )
    return replace(cfg, **changes)


def shaken(cfg: PretrainedPlannerConfig, seed: int = 0) -> PretrainedPlanner:
    """Adapters start at zero; here nothing is."""
    torch.manual_seed(seed)
    planner = PretrainedPlanner(cfg).eval()
    with torch.no_grad():
        for value in planner.learned().values():
            value.add_(torch.randn_like(value) * 0.1)
    return planner


def scenes(seed: int = 0) -> dict:
    torch.manual_seed(seed)
    images = {c: torch.randint(0, 256, (B, P, 20, 20, 3), dtype=torch.uint8) for c in ("front", "wrist")}
    seen = torch.tensor([[False, False, True], [True, False, True], [True, True, True], [False, True, True]])
    return {"instruction": TASKS, "previous": ["", "reach handle", "", "reach"], "images": images, "seen": seen}


def batch(seed: int = 0) -> dict:
    goal = F.layer_norm(torch.randn(B, K, D), (D,))
    return scenes(seed) | {"subtask": SUBTASKS, "goal": goal, "progress": torch.rand(B)}


def learn(planner: PretrainedPlanner, data: dict, steps: int, rate: float) -> list[dict[str, Tensor]]:
    optimizer = torch.optim.AdamW([p for p in planner.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    history = []
    for _ in range(steps):
        losses, _ = planner.loss(data)
        optimizer.zero_grad()
        (losses["text"] + losses["goal"] + losses["progress"]).backward()
        optimizer.step()
        history.append({name: x.detach() for name, x in losses.items()})
    return history


@pytest.mark.parametrize("kind", MAKERS)
def test_learns_a_batch_by_heart_with_adapters_and_heads_alone(folders, kind):
    torch.manual_seed(1)
    planner = PretrainedPlanner(config(folders[kind], hide_words=0.0, hide_tick=0.0)).train()
    learned = planner.learned().keys()
    frozen = {name: p.clone() for name, p in planner.named_parameters() if name not in learned}
    data = batch() | {"seen": torch.zeros(B, P, dtype=torch.bool)}
    history = learn(planner, data, 70, 1.5e-2)
    assert not planner.trunk.training
    for name, p in planner.named_parameters():
        if name in learned:
            assert "lora_" in name or not name.startswith("trunk"), name
            assert p.grad is not None and p.grad.abs().sum() > 0, name
        else:
            assert p.grad is None and torch.equal(p, frozen[name]), name
    assert not [name for name in learned if "vision" in name or "visual" in name]
    # The frozen random output layer bounds the logits, so the words are right long before their loss is 0.
    assert history[-1]["text"] < 0.3 * history[0]["text"] and history[-1]["goal"] < 0.1 * history[0]["goal"]
    assert history[-1]["subtask_accuracy"] == 1
    thought = planner.sample(data["instruction"], data["previous"], data["images"], data["seen"])
    assert thought.subtask == SUBTASKS
    torch.testing.assert_close(thought.progress, data["progress"], atol=0.15, rtol=0)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "seed,steps", [(0, 0), (1, 0), (2, 20)]
)  # untrained: words run to the limit; trained: they end
def test_a_sampled_plan_is_the_teacher_forced_plan_of_its_words(folders, kind, seed, steps):
    planner, scene = shaken(config(folders[kind]), seed), scenes(seed)
    learn(planner, batch(seed), steps, 1e-2)
    plan = planner.sample(**scene)
    assert plan.goal.shape == (B, K, D) and plan.progress.shape == (B,) and len(plan.subtask) == B
    assert ((plan.progress > 0) & (plan.progress < 1)).all()
    torch.testing.assert_close(plan.goal.mean(-1), torch.zeros(B, K), atol=1e-5, rtol=0)
    torch.testing.assert_close(plan.goal.var(-1, unbiased=False), torch.ones(B, K), atol=1e-3, rtol=0)

    prompt = planner.prompt(**scene)
    ids, real, _ = planner.decode(prompt)
    assert plan.subtask == planner.chat.words(ids, real) and (steps == 0 or not real.all())
    with torch.no_grad():
        logits, goal, progress = planner.think(prompt, ids, real)
    said = planner.chat.target(ids, real)[:, : ids.shape[1]]
    assert ((logits.argmax(-1)[:, :-1] == said) | (said == IGNORED)).all()
    torch.testing.assert_close(plan.goal, goal, atol=1e-5, rtol=0)
    torch.testing.assert_close(plan.progress, progress, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_rows_do_not_mix_and_every_input_matters(folders, kind):
    planner, scene = shaken(config(folders[kind])), scenes()

    ids, real = planner.chat.answer(SUBTASKS)

    def goals(**changes) -> Tensor:
        return planner.think(planner.prompt(**(scene | changes)), ids, real)[1]

    whole = goals()
    alone = {name: x[2:3] for name, x in scene.items() if name != "images"}
    alone |= {"images": {c: x[2:3] for c, x in scene["images"].items()}}
    one = planner.think(planner.prompt(**alone), ids[2:3], real[2:3])[1]
    torch.testing.assert_close(one, whole[2:3], atol=1e-4, rtol=0)

    newest, oldest = ({c: x.clone() for c, x in scene["images"].items()} for _ in range(2))
    newest["wrist"][:, -1] = 255 - newest["wrist"][:, -1]
    oldest["front"][:, 0] = 255 - oldest["front"][:, 0]
    changes = {"instruction": TASKS[1:] + TASKS[:1], "previous": ["press"] * B}
    for changed in (goals(images=newest), *(goals(**{k: v}) for k, v in changes.items())):
        assert ((changed - whole).abs().amax((1, 2)) > 1e-3).all()
    moved = (goals(images=oldest) - whole).abs().amax((1, 2)) > 1e-6
    assert moved.tolist() == scene["seen"][:, 0].tolist()  # a tick that was not seen has no say


@pytest.mark.parametrize("kind", MAKERS)
def test_learned_tensors_rebuild_the_planner(folders, kind):
    cfg = config(folders[kind])
    planner, other = shaken(cfg, 3), shaken(cfg, 4)
    scene = scenes()
    state = {name: x.clone() for name, x in planner.learned().items()}
    assert sum(x.numel() for x in state.values()) < sum(p.numel() for p in planner.parameters()) / 2
    mine = planner.sample(**scene)
    assert not torch.allclose(other.sample(**scene).goal, mine.goal, atol=1e-2)
    other.load_learned(state)
    theirs = other.sample(**scene)
    assert theirs.subtask == mine.subtask and torch.equal(theirs.goal, mine.goal)
    first = next(iter(state))
    with pytest.raises(ValueError, match="1 names differ"):
        other.load_learned({name: x for name, x in state.items() if name != first})
    with pytest.raises(ValueError, match="shape"):
        other.load_learned(state | {first: state[first][:1]})


def test_hidden_words_and_ticks_are_not_told(folders, monkeypatch):
    planner, data, told = shaken(config(folders["qwen"], hide_words=1.0, hide_tick=1.0)), batch(), []
    monkeypatch.setattr(
        planner, "prompt", lambda *given: told.append(given) or PretrainedPlanner.prompt(planner, *given)
    )
    planner.loss(data)
    _, previous, _, seen = told[0]
    assert previous == [""] * B and not seen.any()  # the newest tick is shown all the same
    assert planner.chat.prompt(TASKS, previous, data["images"], seen)["image_grid_thw"].shape[0] == 2 * B


def test_options_of_the_processor_and_dtype_of_the_trunk(folders):
    whole = PretrainedPlanner(config(folders["idefics3"], dtype="bfloat16"))
    split = PretrainedPlanner(config(folders["idefics3"], processor={"do_image_splitting": True}))
    scene = scenes()
    lengths = [planner.prompt(**scene)["input_ids"].shape[1] for planner in (split, whole)]
    assert lengths[0] > lengths[1]
    assert whole.trunk.lm_head.weight.dtype == torch.bfloat16
    assert {x.dtype for x in whole.learned().values()} == {torch.float32}
    losses, plan = whole.loss(batch())
    sum(losses.values()).backward()
    assert plan.goal.dtype == torch.float32 and all(torch.isfinite(x) for x in losses.values())


def test_errors_say_what_to_do(folders, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        PretrainedError, match="nobody/nothing is no folder.*hf download nobody/nothing.*HF_HUB_OFFLINE"
    ):
        PretrainedPlanner(config("nobody/nothing"))
    with pytest.raises(PretrainedError, match="does not load as .*config.json"):
        PretrainedPlanner(config(str(tmp_path)))
    with pytest.raises(PretrainedError, match=r"named \['c_attn'\]; there are: .*down_proj.*q_proj"):
        PretrainedPlanner(config(folders["qwen"], lora_targets=("c_attn",)))
    transformers.LlamaConfig(**TEXT, vocab_size=8).save_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match="does not load as AutoModelForImageTextToText"):
        PretrainedPlanner(config(str(tmp_path)))
    planner = PretrainedPlanner(config(folders["qwen"]))
    with pytest.raises(ValueError, match="subtask_length is 6"):
        planner.chat.answer(["reach red", "a long and winding description of nothing at all"])


@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_a_missing_package_is_one_line(folders, package, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PretrainedError, match=r"pip install 'tandem-vla\[pretrained\]'"):
        PretrainedPlanner(config(folders["qwen"]))


def test_targets_of_an_answer():
    class Words:
        pad_token, eos_token_id, pad_token_id = "p", 1, 1

        def __call__(self, texts, add_special_tokens):
            return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    class Processor:
        tokenizer = Words()

    chat = Chat(Processor(), ("front",), 3)
    ids, real = chat.answer(["5 6", "", "7 8 9"])
    assert ids.tolist() == [[5, 6, 1], [1, 1, 1], [7, 8, 9]] and real.sum(1).tolist() == [2, 0, 3]
    none = IGNORED
    assert chat.target(ids, real).tolist() == [[5, 6, 1, none], [1, none, none, none], [7, 8, 9, 1]]


def test_lora_leaves_a_function_as_it_was_until_trained():
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, vocab_size=16)).eval()
    ids = torch.randint(0, 16, (2, 5))
    before = model(ids).logits
    add_lora(model, 2, 4, ("q_proj", "down_proj"))
    assert torch.equal(model(ids).logits, before)
    assert len([n for n, p in model.named_parameters() if p.requires_grad]) == 2 * 2 * TEXT["num_hidden_layers"]
    assert "lm_head" not in linear_layers(model)
