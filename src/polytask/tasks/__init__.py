"""Tasks: what is learned, with its head, loss and metrics."""

from polytask.components import Family
from polytask.tasks.classification import Classification
from polytask.tasks.contrastive import Contrastive
from polytask.tasks.count import Count
from polytask.tasks.ctc import CTC
from polytask.tasks.dense_regression import DenseRegression
from polytask.tasks.depth import Depth
from polytask.tasks.detection import Detection
from polytask.tasks.edges import Edges
from polytask.tasks.masked_tokens import MaskedTokens
from polytask.tasks.multi_label import MultiLabel
from polytask.tasks.node_classification import NodeClassification
from polytask.tasks.node_regression import NodeRegression
from polytask.tasks.normals import Normals
from polytask.tasks.ordinal import Ordinal
from polytask.tasks.reconstruction import Reconstruction
from polytask.tasks.regression import Regression
from polytask.tasks.rotation import Rotation
from polytask.tasks.segmentation import Segmentation
from polytask.tasks.survival import Survival
from polytask.tasks.tagging import Tagging
from polytask.tasks.task import Task

family: Family[Task] = Family(
    "task",
    Task,
    {
        "classification": Classification,
        "contrastive": Contrastive,
        "count": Count,
        "ctc": CTC,
        "dense_regression": DenseRegression,
        "depth": Depth,
        "detection": Detection,
        "edges": Edges,
        "masked_tokens": MaskedTokens,
        "multi_label": MultiLabel,
        "node_classification": NodeClassification,
        "node_regression": NodeRegression,
        "normals": Normals,
        "ordinal": Ordinal,
        "reconstruction": Reconstruction,
        "regression": Regression,
        "rotation": Rotation,
        "segmentation": Segmentation,
        "survival": Survival,
        "tagging": Tagging,
    },
)
names = family.names
create = family.create

__all__ = [
    "CTC",
    "Classification",
    "Contrastive",
    "Count",
    "DenseRegression",
    "Depth",
    "Detection",
    "Edges",
    "MaskedTokens",
    "MultiLabel",
    "NodeClassification",
    "NodeRegression",
    "Normals",
    "Ordinal",
    "Reconstruction",
    "Regression",
    "Rotation",
    "Segmentation",
    "Survival",
    "Tagging",
    "Task",
    "create",
    "family",
    "names",
]
