"""Balancing: the losses of K tasks into one update. Needs PyTorch alone; methods that solve small problems, SciPy."""

from __future__ import annotations

from polytask.balancing.accumulation import GradientSum
from polytask.balancing.adatask import AdaTask
from polytask.balancing.aligned_mtl import AlignedMTL
from polytask.balancing.annealed import Annealed
from polytask.balancing.auto_lambda import AutoLambda
from polytask.balancing.balancer import Balancer, Score, Step
from polytask.balancing.bandit_mtl import BanditMTL
from polytask.balancing.cagrad import CAGrad
from polytask.balancing.con_fig import ConFIG
from polytask.balancing.cov import CoefficientOfVariation
from polytask.balancing.db_mtl import DBMTL
from polytask.balancing.diagnose import diagnose
from polytask.balancing.diagnosis import Diagnosis
from polytask.balancing.dtp import DTP
from polytask.balancing.dual_proj import DualProj
from polytask.balancing.dwa import DWA
from polytask.balancing.equal import Equal
from polytask.balancing.excess_mtl import ExcessMTL
from polytask.balancing.fairgrad import FairGrad
from polytask.balancing.famo import FAMO
from polytask.balancing.geometric_mean import GeometricMean
from polytask.balancing.go4align import GO4Align
from polytask.balancing.graddrop import GradDrop
from polytask.balancing.gradient_cosine import GradientCosine
from polytask.balancing.gradients import gramian
from polytask.balancing.gradnorm import GradNorm
from polytask.balancing.gradvac import GradVac
from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.igb import IGB
from polytask.balancing.imtl import IMTL
from polytask.balancing.imtl_g import IMTLG
from polytask.balancing.imtl_l import IMTLL
from polytask.balancing.independent_batches import IndependentBatches
from polytask.balancing.jacobian_balancer import JacobianBalancer
from polytask.balancing.krum import Krum
from polytask.balancing.loss_balancer import LossBalancer
from polytask.balancing.matrix_free import MatrixFreeBalancer
from polytask.balancing.meta_balance import MetaBalance
from polytask.balancing.mgda import MGDA
from polytask.balancing.moco import MoCo
from polytask.balancing.modo import MoDo
from polytask.balancing.nash_mtl import NashMTL
from polytask.balancing.ol_aux import OLAux
from polytask.balancing.pcgrad import PCGrad
from polytask.balancing.pivrg import PIVRG
from polytask.balancing.preference import PreferenceBalancer
from polytask.balancing.random_weights import RandomWeights
from polytask.balancing.scale_invariant import ScaleInvariant
from polytask.balancing.sdmgrad import SDMGrad
from polytask.balancing.slaw import SLAW
from polytask.balancing.static import Static
from polytask.balancing.stch import SmoothTchebycheff
from polytask.balancing.tchebycheff import Tchebycheff
from polytask.balancing.trimmed_mean import TrimmedMean
from polytask.balancing.uncertainty import Uncertainty
from polytask.balancing.uncertainty_softmax import UncertaintySoftmax
from polytask.balancing.upgrad import UPGrad
from polytask.components import Family

family: Family[Balancer] = Family(
    "balancer",
    Balancer,
    {
        "adatask": AdaTask,
        "aligned_mtl": AlignedMTL,
        "annealed": Annealed,
        "auto_lambda": AutoLambda,
        "bandit_mtl": BanditMTL,
        "cagrad": CAGrad,
        "con_fig": ConFIG,
        "cov": CoefficientOfVariation,
        "db_mtl": DBMTL,
        "dtp": DTP,
        "dual_proj": DualProj,
        "dwa": DWA,
        "equal": Equal,
        "excess_mtl": ExcessMTL,
        "fairgrad": FairGrad,
        "famo": FAMO,
        "geometric_mean": GeometricMean,
        "go4align": GO4Align,
        "graddrop": GradDrop,
        "gradient_cosine": GradientCosine,
        "gradnorm": GradNorm,
        "gradvac": GradVac,
        "igb": IGB,
        "imtl": IMTL,
        "imtl_g": IMTLG,
        "imtl_l": IMTLL,
        "krum": Krum,
        "meta_balance": MetaBalance,
        "mgda": MGDA,
        "moco": MoCo,
        "modo": MoDo,
        "nash_mtl": NashMTL,
        "ol_aux": OLAux,
        "pcgrad": PCGrad,
        "pivrg": PIVRG,
        "random": RandomWeights,
        "scale_invariant": ScaleInvariant,
        "sdmgrad": SDMGrad,
        "slaw": SLAW,
        "static": Static,
        "stch": SmoothTchebycheff,
        "tchebycheff": Tchebycheff,
        "trimmed_mean": TrimmedMean,
        "uncertainty": Uncertainty,
        "uncertainty_softmax": UncertaintySoftmax,
        "upgrad": UPGrad,
    },
)
names = family.names
create = family.create

__all__ = [
    "DBMTL",
    "DTP",
    "DWA",
    "FAMO",
    "IGB",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "PIVRG",
    "SLAW",
    "AdaTask",
    "AlignedMTL",
    "Annealed",
    "AutoLambda",
    "Balancer",
    "BanditMTL",
    "CAGrad",
    "CoefficientOfVariation",
    "ConFIG",
    "Diagnosis",
    "DualProj",
    "Equal",
    "ExcessMTL",
    "FairGrad",
    "GO4Align",
    "GeometricMean",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GradientCosine",
    "GradientSum",
    "GramianBalancer",
    "IndependentBatches",
    "JacobianBalancer",
    "Krum",
    "LossBalancer",
    "MatrixFreeBalancer",
    "MetaBalance",
    "MoCo",
    "MoDo",
    "NashMTL",
    "OLAux",
    "PCGrad",
    "PreferenceBalancer",
    "RandomWeights",
    "SDMGrad",
    "ScaleInvariant",
    "Score",
    "SmoothTchebycheff",
    "Static",
    "Step",
    "Tchebycheff",
    "TrimmedMean",
    "UPGrad",
    "Uncertainty",
    "UncertaintySoftmax",
    "create",
    "diagnose",
    "family",
    "gramian",
    "names",
]
