"""Laws of the pretrained scene encoder, on tiny random vision towers."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

transformers = pytest.importorskip("transformers")

from tandem.planner.hub import PretrainedError  # noqa: E402
from tandem.policy.networks.pretrained_encoder import PretrainedEncoder, PretrainedEncoderConfig  # noqa: E402

B, S, D, T, STATE = 3, 20, 24, 5, 7
SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4,
    "image_size": 16, "initializer_range": 0.2,
}  # fmt: skip
SQUARE = {"do_resize": True, "size": {"height": 16, "width": 16}, "resample": 2}
CROPPED = SQUARE | {"size": {"shortest_edge": 18}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
CROPPED |= {"resample": 3}
KINDS = {
    "dinov2": ("Dinov2Model", "Dinov2Config", SIZES, "BitImageProcessor", CROPPED),
    "dinov3": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        SIZES | {"num_register_tokens": 3},
        "DINOv3ViTImageProcessor",
        SQUARE,
    ),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", SIZES, "SiglipImageProcessor", SQUARE),
}


def write(folder: Path, kind: str) -> str:
    """A checkpoint as the hub has it."""
    model, config, sizes, processor, how = KINDS[kind]
    torch.manual_seed(0)
    getattr(transformers, model)(getattr(transformers, config)(**sizes)).save_pretrained(folder)
    normalise = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "do_normalize": True}
    how = how | normalise | {"image_processor_type": processor, "do_rescale": True, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(how))
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def encoder(folder: str, seed: int = 0, **changes) -> PretrainedEncoder:
    torch.manual_seed(seed)
    cfg = {"state_dim": STATE, "width": D, "camera_tokens": T, "heads": 4} | changes
    return PretrainedEncoder(PretrainedEncoderConfig(folder, **cfg))


def scene(seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(seed)
    images = {c: torch.randint(0, 256, (B, S, S, 3), dtype=torch.uint8) for c in ("front", "wrist")}
    return images, torch.randn(B, STATE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tower_stays_frozen_and_the_rest_learns(folders, kind):
    model = encoder(folders[kind]).train()
    images, state = scene()
    target = torch.randn(B, model.cfg.tokens, D)
    frozen = {name: p.clone() for name, p in model.tower.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    errors = []
    for _ in range(60):
        error = (model(images, state).z - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]
    assert model.training and not any(module.training for module in model.tower.modules())
    assert all(torch.equal(p, frozen[name]) and p.grad is None for name, p in model.tower.named_parameters())
    assert {name for name, p in model.named_parameters() if p.grad is not None} == model.learned().keys()
    assert not any(name.startswith("tower") for name in model.learned())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_are_the_towers_patches_row_by_row(folders, kind):
    """Against the reference class on pixels prepared here; a change in one patch moves that patch most."""
    model = encoder(folders[kind])
    images, _ = scene()
    features = model.features(images)
    assert features.shape == (B, 2, 16, 16)
    reference = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    prefix = {"dinov2": 1, "dinov3": 4, "siglip": 0}[kind]
    for c, camera in enumerate(model.cfg.cameras):
        out = reference(model.pixels(images[camera])).last_hidden_state
        assert out.shape[1] == prefix + 16
        torch.testing.assert_close(features[:, c], out[:, prefix:], atol=1e-5, rtol=0)
    changed = {camera: x.clone() for camera, x in images.items()}
    changed["front"][:, 5:10, 15:20] = 255 - changed["front"][:, 5:10, 15:20]  # patch (1, 3) of a 4 x 4 grid
    moved = (model.features(changed) - features).abs().sum(-1)
    assert (moved[:, 0].argmax(-1) == 1 * 4 + 3).all() and (moved[:, 1] == 0).all()


@pytest.mark.parametrize("kind", ["dinov2", "siglip"])
@pytest.mark.parametrize("side", [12, 16, 40])
def test_pixels_are_the_processors(folders, kind, side):
    """PIL resizes rows, then columns, and rounds and clips to 8 bits each time: grey images, which nothing clips."""
    model = encoder(folders[kind])
    image = torch.randint(70, 190, (1, side, side, 3), dtype=torch.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(folders[kind], backend="pil")
    options = {"do_center_crop": False, "size": {"height": 16, "width": 16}} if kind == "dinov2" else {}
    theirs = processor(Image.fromarray(image[0].numpy()), return_tensors="pt", **options)["pixel_values"]
    torch.testing.assert_close(model.pixels(image), theirs, atol=2 / 255 / 0.2, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scene_tokens(folders, kind):
    model = encoder(folders[kind])
    images, state = scene()
    z = model(images, state).z
    assert z.shape == (B, model.cfg.tokens, D) == (B, 2 * T + 1, D)
    assert torch.equal(model.read(model.features(images), state).z, z)  # features may be computed once
    one = model({camera: x[1:2] for camera, x in images.items()}, state[1:2]).z
    torch.testing.assert_close(one, z[1:2], atol=1e-5, rtol=0)

    def moved(images: dict[str, Tensor], state: Tensor) -> list[bool]:
        return ((model(images, state).z - z).abs().amax((0, 2)) > 1e-4).tolist()

    front, wrist, own = [True] * T + [False] * (T + 1), [False] * T + [True] * T + [False], [False] * 2 * T + [True]
    assert moved(images | {"front": 255 - images["front"]}, state) == front
    assert moved(images | {"wrist": 255 - images["wrist"]}, state) == wrist
    assert moved(images, state + 1) == own
    swapped = dict(reversed(images.items()))
    assert torch.equal(model(swapped, state).z, z)  # cameras go by name


def test_low_precision_tower_gives_full_precision_tokens(folders):
    model = encoder(folders["dinov2"], dtype="bfloat16")
    assert model.features(scene()[0]).dtype == torch.bfloat16 and model(*scene()).z.dtype == torch.float32


def test_a_whole_siglip_gives_its_vision_tower(tmp_path, folders):
    words = {k: v for k, v in SIZES.items() if k not in ("patch_size", "image_size", "initializer_range")}
    vision = transformers.SiglipVisionConfig(**SIZES).to_dict()
    whole = transformers.SiglipModel(
        transformers.SiglipConfig(text_config=words | {"vocab_size": 8}, vision_config=vision)
    )
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        (Path(folders["siglip"]) / "preprocessor_config.json").read_text()
    )
    model = encoder(str(tmp_path))
    assert not [name for name, _ in model.named_parameters() if "text" in name]
    reference = whole.eval().vision_model(model.pixels(scene()[0]["front"])).last_hidden_state
    torch.testing.assert_close(model.features(scene()[0])[:, 0], reference, atol=1e-5, rtol=0)


def test_errors_say_what_to_do(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        PretrainedError, match="nobody/nothing is no folder.*hf download nobody/nothing.*HF_HUB_OFFLINE"
    ):
        encoder("nobody/nothing")
    folder = Path(write(tmp_path, "dinov2"))
    how = json.loads((folder / "preprocessor_config.json").read_text())
    for name in ("image_mean", "crop_size"):
        (folder / "preprocessor_config.json").write_text(json.dumps({k: v for k, v in how.items() if k != name}))
        with pytest.raises(PretrainedError, match={"image_mean": "lacks .'image_mean'", "crop_size": "no fixed"}[name]):
            encoder(str(folder))
    transformers.Siglip2VisionModel(
        transformers.Siglip2VisionConfig(**{k: v for k, v in SIZES.items() if k != "image_size"}, num_patches=16)
    ).save_pretrained(tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps(how))
    with pytest.raises(PretrainedError, match="siglip2_vision_model. is no vision transformer with images of a fixed"):
        encoder(str(folder))
