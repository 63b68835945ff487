"""The commands `rerank index` and `rerank search`."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.runtime import terminal
from rerank import output
from rerank.console import DONE, SOME_FAILED, counter, load, note, out_of_memory, tell_unread

if TYPE_CHECKING:
    from rerank.reranker import Reranker
    from rerank.search.index import Found, Index, Update


def index_images(options: argparse.Namespace) -> int:
    """Make the index of a folder, or bring it up to date."""
    from rerank.search.index import Index

    if _is_collection(options):
        return _index_collection(options)
    [folder] = options.sources
    reranker = load(options, options.model)
    with out_of_memory():
        index, update = Index.build(
            folder, reranker, where=options.index, progress=counter(options)
        )
    _tell_problems(index)
    tell_unread(folder, deep=True)
    return _tell_update(len(index.entries), update)


def _is_collection(options: argparse.Namespace) -> bool:
    """Return whether these are sources of a collection. Raises ValueError for flags that miss."""
    from rerank.search.shards import has_packed

    several = len(options.sources) > 1 or options.ray is not None
    if not several and not any(map(has_packed, options.sources)):
        if options.column is not None or options.workers is not None:
            raise ValueError("--column is for Parquet files, and --workers for --ray")
        return False
    if options.index is None:
        raise ValueError("say by --index FOLDER where the features of all these shall lie")
    if options.workers is not None and options.ray is None:
        raise ValueError("--workers is for --ray: --ray local has actors on this machine")
    return True


def _index_collection(options: argparse.Namespace) -> int:
    """Read the shards that are new or changed."""
    from rerank.search.collection import Collection

    reranker = load(options, options.model)
    with out_of_memory():
        collection, update = Collection.build(
            options.sources,
            options.index,
            reranker,
            column=options.column,
            ray=options.ray,
            workers=options.workers,
            progress=counter(options),
        )
    for problem in collection.problems:
        note(problem)
    return _tell_update(len(collection), update)


def _tell_update(total: int, update: "Update") -> int:
    for path, why in update.failed.items():
        note(f"{path} is left out: {output.reason(path, why)}")
    terminal.write(
        f"{total} images: {update.added} read, {update.kept} there already, "
        f"{update.removed} forgotten"
    )
    return SOME_FAILED if update.failed else DONE


def search_images(options: argparse.Namespace) -> int:
    """Find images in an index."""
    from rerank.search.collection import Collection
    from rerank.search.index import Index

    if (options.query is None) == (options.like is None):
        raise ValueError("say what to look for: a text, or --like IMAGE")
    query = options.like if options.query is None else options.query
    reranker = load(options, options.model)
    if options.index is None and Collection.exists(options.folder):
        collection = Collection.open(options.folder, reranker)
        for problem in collection.problems:
            note(problem)
        found = collection.search(query, options.top_k, exhaustive=options.exhaustive)
        _print_found(options, reranker, found)
        return DONE
    index = Index.open(options.folder, reranker, where=options.index)
    _tell_problems(index)
    _print_found(options, reranker, index.search(query, options.top_k))
    if stale_files := index.stale():
        note(
            f"{len(stale_files)} images are new, changed or gone: "
            f"`rerank index {options.folder}` brings the index up to date"
        )
    return DONE


def _print_found(
    options: argparse.Namespace, reranker: "Reranker", found: Sequence["Found"]
) -> None:
    if options.json:
        rows = [{"score": f.score, "file": str(f.path), "stale": f.stale} for f in found]
        terminal.write(json.dumps({"model": reranker.name, "results": rows}, indent=2))
        return
    for place, each in enumerate(found, start=1):
        stale = "  (changed or removed since)" if each.stale else ""
        terminal.write(f"{place:4}  {each.score:+.4f}  {each.path}{stale}")


def _tell_problems(index: "Index") -> None:
    for problem in index.problems:
        note(f"{problem}; `rerank index {index.folder}` reads those images again")
