"""The engine that needs no Ray: one trial after the other, in this process."""

from __future__ import annotations

from harness.execute import stop
from harness.provenance import driver_facts
from harness.search.book import Book
from harness.search.definition import Search
from harness.search.evaluate import Evaluator
from harness.search.study import distributions, frozen, open_study, sampler_of, values_of


def run(search: Search, evaluate: Evaluator, book: Book) -> None:
    """Try points until the budget is used up."""
    stop.listen()
    sampler = sampler_of(search, book.numbers)
    study = open_study(search, book.past, sampler)
    space, facts = distributions(search), driver_facts()
    while book.room:
        stop.check()
        book.start()
        if (trial := book.again()) is not None:
            row = {**evaluate(trial), **facts}
            study.add_trial(frozen(search, row))
        else:
            asked = study.ask(space)
            row = {**evaluate(sampler.trial(asked.number, asked.params)), **facts}
            study.tell(asked, values_of(search, row))
        book.finish(row)
        book.flush()
