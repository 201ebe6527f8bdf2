"""Encoders: one modality to features, as ordered stages."""

from polytask.components import Family
from polytask.encoders.auto_model import AutoModel
from polytask.encoders.bag import Bag
from polytask.encoders.cnn import CNN
from polytask.encoders.encoder import Encoder, Features, FeatureShape, Stage
from polytask.encoders.ft_transformer import FTTransformer
from polytask.encoders.gat import GAT
from polytask.encoders.gcn import GCN
from polytask.encoders.gin import GIN
from polytask.encoders.gru import BiGRU
from polytask.encoders.mlp import MLP
from polytask.encoders.tabular_resnet import TabularResNet
from polytask.encoders.text_cnn import TextCNN
from polytask.encoders.timm_backbone import Timm
from polytask.encoders.torchvision_backbones import VGG, ResNet
from polytask.encoders.transformer import Transformer

family: Family[Encoder] = Family(
    "encoder",
    Encoder,
    {
        "auto_model": AutoModel,
        "bag": Bag,
        "bigru": BiGRU,
        "cnn": CNN,
        "ft_transformer": FTTransformer,
        "gat": GAT,
        "gcn": GCN,
        "gin": GIN,
        "mlp": MLP,
        "resnet": ResNet,
        "tabular_resnet": TabularResNet,
        "text_cnn": TextCNN,
        "timm": Timm,
        "transformer": Transformer,
        "vgg": VGG,
    },
)
names = family.names
create = family.create

__all__ = [
    "CNN",
    "GAT",
    "GCN",
    "GIN",
    "MLP",
    "VGG",
    "AutoModel",
    "Bag",
    "BiGRU",
    "Encoder",
    "FTTransformer",
    "FeatureShape",
    "Features",
    "ResNet",
    "Stage",
    "TabularResNet",
    "TextCNN",
    "Timm",
    "Transformer",
    "create",
    "family",
    "names",
]
