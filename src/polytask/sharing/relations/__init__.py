"""Relations: tasks that read other tasks' predictions or features."""

from polytask.components import Family
from polytask.sharing.relations.cascade import Cascade
from polytask.sharing.relations.cross_task_attention import CrossTaskAttention
from polytask.sharing.relations.order import RelationProblem, problems_of
from polytask.sharing.relations.related_tasks import RelatedTasks
from polytask.sharing.relations.relation import Read, ReadShape, Relation, RelationLayer

family: Family[Relation] = Family(
    "relation",
    Relation,
    {
        "cascade": Cascade,
        "cross_task_attention": CrossTaskAttention,
    },
)
names = family.names
create = family.create

__all__ = [
    "Cascade",
    "CrossTaskAttention",
    "Read",
    "ReadShape",
    "RelatedTasks",
    "Relation",
    "RelationLayer",
    "RelationProblem",
    "create",
    "family",
    "names",
    "problems_of",
]
