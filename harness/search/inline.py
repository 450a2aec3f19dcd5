"""The engine that needs no Ray: one trial after the other, in this process."""

from __future__ import annotations

from harness.execute import stop
from harness.provenance import driver_facts
from harness.rows import Row
from harness.search.book import Book
from harness.search.definition import Search
from harness.search.evaluate import Evaluator, Trial
from harness.search.study import distributions, open_study, sampler_of, values_of


def run(search: Search, evaluate: Evaluator, book: Book) -> None:
    """Try points until the budget is used up: first those that failed before, then what the sampler says."""
    stop.listen()
    facts = driver_facts()

    def attempt(trial: Trial) -> Row:
        stop.check()
        book.start()
        row = {**evaluate(trial), **facts}
        book.finish(row)
        book.flush()
        return row

    while book.room and (trial := book.again()) is not None:
        attempt(trial)
    sampler = sampler_of(search, book.numbers)
    study, space = open_study(search, book.past, sampler), distributions(search)
    while book.room:
        asked = study.ask(space)
        row = attempt(sampler.trial(asked.number, asked.params))
        study.tell(asked, values_of(search, row))
