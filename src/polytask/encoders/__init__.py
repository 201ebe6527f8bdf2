"""Encoders: one modality to features, as ordered stages."""

from polytask.components import Family
from polytask.encoders.audio_cnn import AudioCNN
from polytask.encoders.auto_model import AutoModel
from polytask.encoders.bag import Bag
from polytask.encoders.cnn import CNN
from polytask.encoders.crnn import CRNN
from polytask.encoders.encoder import Encoder, Stage
from polytask.encoders.ft_transformer import FTTransformer
from polytask.encoders.gat import GAT
from polytask.encoders.gcn import GCN
from polytask.encoders.gin import GIN
from polytask.encoders.gru import BiGRU
from polytask.encoders.lstm import LSTM
from polytask.encoders.mlp import MLP
from polytask.encoders.series_transformer import SeriesTransformer
from polytask.encoders.speech_model import SpeechModel
from polytask.encoders.tabular_resnet import TabularResNet
from polytask.encoders.tcn import TCN
from polytask.encoders.text_cnn import TextCNN
from polytask.encoders.timm_backbone import Timm
from polytask.encoders.torchvision_backbones import VGG, ResNet
from polytask.encoders.transformer import Transformer
from polytask.features import Features, FeatureShape

family: Family[Encoder] = Family(
    "encoder",
    Encoder,
    {
        "audio_cnn": AudioCNN,
        "auto_model": AutoModel,
        "bag": Bag,
        "bigru": BiGRU,
        "cnn": CNN,
        "crnn": CRNN,
        "ft_transformer": FTTransformer,
        "gat": GAT,
        "gcn": GCN,
        "gin": GIN,
        "lstm": LSTM,
        "mlp": MLP,
        "resnet": ResNet,
        "series_transformer": SeriesTransformer,
        "speech_model": SpeechModel,
        "tabular_resnet": TabularResNet,
        "tcn": TCN,
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
    "CRNN",
    "GAT",
    "GCN",
    "GIN",
    "LSTM",
    "MLP",
    "TCN",
    "VGG",
    "AudioCNN",
    "AutoModel",
    "Bag",
    "BiGRU",
    "Encoder",
    "FTTransformer",
    "FeatureShape",
    "Features",
    "ResNet",
    "SeriesTransformer",
    "SpeechModel",
    "Stage",
    "TabularResNet",
    "TextCNN",
    "Timm",
    "Transformer",
    "create",
    "family",
    "names",
]
