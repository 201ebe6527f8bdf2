import pytest
import torch

from polytask.encoders import Timm
from polytask.errors import UserError
from polytask.shapes import ImageShape

STEM_AND_4 = ("stem", "block1", "block2", "block3", "block4", "pool")
STAGES = {
    "resnet18": STEM_AND_4,
    "mobilenetv3_small_050": STEM_AND_4,
    "convnext_atto": STEM_AND_4,
    "regnety_002": STEM_AND_4,
    "repvgg_a0": STEM_AND_4,
    "swin_tiny_patch4_window7_224": STEM_AND_4,
    "vit_tiny_patch16_224": ("embed", *(f"block{number}" for number in range(1, 13)), "pool"),
    "deit_tiny_distilled_patch16_224": ("embed", *(f"block{number}" for number in range(1, 13)), "pool"),
    "hrnet_w18_small": ("backbone", "pool"),
    "levit_128s": ("backbone", "pool"),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_compute_what_timms_network_computes(name):
    import timm

    side = 64 if "swin" not in name and "levit" not in name else 224
    options = {"img_size": (side, side)} if timm.get_pretrained_cfg_value(name, "fixed_input_size") else {}
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0, in_chans=1, **options).eval()
    torch.manual_seed(0)
    encoder = Timm(name, shape=ImageShape(1, side, side)).eval()
    assert encoder.stage_names == STAGES[name]
    count = [sum(p.numel() for p in module.parameters()) for module in (encoder, theirs)]
    assert count[0] == count[1]
    features = image = torch.randn(1, 1, side, side)
    for stage in encoder.stage_names:
        before = getattr(features, "values", features).clone() if features is not image else image.clone()
        after = encoder.stages[stage](features)
        assert torch.equal(features if features is image else features.values, before), stage
        shape = encoder.stages[stage].shape
        assert after.values.ndim == {"vector": 2, "tokens": 3, "map": 4}[shape.kind], stage
        assert after.values.shape[1 if shape.kind == "map" else -1] == shape.width, stage
        features = after
    with torch.no_grad():
        torch.testing.assert_close(features.values, theirs(image))


def test_a_network_without_separate_pooling_is_one_stage(monkeypatch):
    from polytask.encoders import timm_stages

    for way in ("_vision_transformer", "_sequence", "_backbone"):
        monkeypatch.setattr(timm_stages, way, lambda *_: None)
    encoder = Timm("mobilenetv3_small_050", shape=ImageShape(1, 64, 64))
    assert encoder.stage_names == ("backbone",)
    assert encoder(torch.randn(2, 1, 64, 64)).values.shape == (2, encoder.shape.width)


def test_building_takes_no_random_numbers_but_the_weights():
    import timm

    torch.manual_seed(0)
    timm.create_model("mobilenetv3_small_050", num_classes=0, in_chans=1)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Timm("mobilenetv3_small_050", shape=ImageShape(1, 64, 64))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet_18", ImageShape(), r"timm .* has no network 'resnet_18'. Did you mean 'resnet18'\?"),
        (
            "vit_tiny_patch16_224",
            ImageShape(1, 10, 10),
            "'vit_tiny_patch16_224' .*images of 10 x 10 pixels and 1 channel",
        ),
        ("inception_v3", ImageShape(3, 20, 20), "timm's 'inception_v3' cannot read images of 20 x 20 pixels"),
    ],
)
def test_what_timm_cannot_do_is_said(name, shape, message):
    with pytest.raises(UserError, match=message):
        Timm(name, shape=shape)
