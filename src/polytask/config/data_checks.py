"""What a configuration's sources demand of each other, and of the tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from polytask.config.component import ComponentSpec
from polytask.config.document import KeyPath
from polytask.config.errors import Problem
from polytask.config.schema import DataConfig, SplitConfig
from polytask.data.readers.options import ReadOptions
from polytask.errors import UserError, closest, listing

if TYPE_CHECKING:
    from polytask.config.config import Config


def data_problems(config: Config) -> Iterator[Problem]:
    """Everything that is wrong with the sources."""
    several = not isinstance(config.data, DataConfig)
    joined = [name for name, source in config.sources.items() if source.key is not None] if several else []
    for name, source in config.sources.items():
        path: KeyPath = ("data", name) if several else ("data",)
        if several:
            yield from _source_name(name)
        yield from _reading(source, path)
        yield from _rename(source, path)
        given = [config.sources[other] for other in (joined if name in joined else [name])]
        needed = not all(any(getattr(other, part) for other in given) for part in ("valid", "test"))
        yield from _split(source.split, (*path, "split"), needed=needed)
        if joined and name in joined[1:] and source.split != config.sources[joined[0]].split:
            yield Problem(
                (*path, "split"),
                f"joined sources are split together, after joining, but '{name}' and '{joined[0]}' are to be split in "
                "different ways. Give `split` to one of them, or the same to both.",
            )
    yield from _task_sources(config, several)


def source_names(task: ComponentSpec) -> tuple[str, ...] | None:
    """The sources that a task names; None for all."""
    given = task.parameters.get("sources")
    if given is None:
        return None
    return (given,) if isinstance(given, str) else tuple(given)


def with_joined(sources: Mapping[str, DataConfig], names: Collection[str] | None) -> list[str]:
    """Some of the sources, and those that they are joined with; all for None.

    Raises:
        UserError: A name is none of them.
    """
    if names is None:
        return list(sources)
    for name in names:
        if name not in sources:
            raise UserError(f"There is no source '{name}'.{closest(name, sources)} The sources: {listing(sources)}.")
    joined = any(sources[name].key is not None for name in names)
    return [name for name, source in sources.items() if name in names or (joined and source.key is not None)]


def share_split(sources: Mapping[str, DataConfig]) -> None:
    """Give joined sources without a split of their own that of the first that has one."""
    joined = [source for source in sources.values() if source.key is not None]
    split = next((source.split for source in joined if "split" in source.model_fields_set), None)
    for source in joined:
        if split is not None and "split" not in source.model_fields_set:
            source.split = split.model_copy()


def _source_name(name: str) -> Iterator[Problem]:
    if not name.strip():
        yield Problem(("data", name), "the sources need names, but this one is empty.")
    elif name in DataConfig.model_fields:
        yield Problem(("data", name), f"a source cannot be called '{name}', which is a setting of a source.")


def _reading(source: DataConfig, path: KeyPath) -> Iterator[Problem]:
    for name, value in source.read_options().items():
        try:
            ReadOptions(**{name: value})
        except UserError as error:
            yield Problem((*path, name), str(error))


def _rename(source: DataConfig, path: KeyPath) -> Iterator[Problem]:
    if twice := [name for name, times in Counter(source.rename.values()).items() if times > 1]:
        yield Problem((*path, "rename"), f"two columns cannot both be called '{twice[0]}'.")


def _split(split: SplitConfig, path: KeyPath, *, needed: bool) -> Iterator[Problem]:
    if split.by == "random" and split.column:
        yield Problem((*path, "column"), "a random split uses no column. All others use one: by: group, say.")
    if split.by != "random" and not split.column and needed:
        yield Problem(path, f"to split by '{split.by}', give the 'column' as well.")
    if split.by not in ("random", "stratified") and isinstance(split.column, list) and len(split.column) > 1:
        yield Problem((*path, "column"), f"a split by '{split.by}' takes one column, not {len(split.column)}.")
    if split.valid + split.test >= 1:
        yield Problem(
            path,
            f"valid and test take {split.valid + split.test:g} of the rows together: nothing is left to train on.",
        )


def _task_sources(config: Config, several: bool) -> Iterator[Problem]:
    for task, spec in config.tasks.items():
        names = source_names(spec) or ()
        path: KeyPath = ("tasks", task, "sources")
        if names and not several:
            yield Problem(
                path,
                "`data` is one source without a name. To name sources, write one below the other: "
                f"data: {{{names[0]}: {{train: ...}}, ...}}.",
            )
            continue
        for name in names:
            if name not in config.sources:
                suggestion = closest(name, config.sources)
                yield Problem(path, f"there is no source '{name}'.{suggestion} The sources: {listing(config.sources)}.")
