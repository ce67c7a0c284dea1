"""One shape: its contestants are started, and each of its cells is measured and written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contest import plan
from contest.child import Worker
from contest.computed import Counter
from contest.dealing import SHARE, Dealt, deal
from contest.measuring import Entrant, Say, alternate, difference, ratio
from contest.rendering import Messages, answer_tokens
from contest.results import Results
from contest.shapes import linears
from contest.texts import PROMPTS, Texts

BLOCK = 32
"""Of vLLM's prefix cache where it is forced: with its own 128, 71 tokens of a prompt's prefix are
computed again each time; with 32, 7. As documented it keeps its own."""

CONTEXT = 4096
"""Tokens that vLLM plans for: more than the longest text here."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for the whole run. `vllm`: its Python, or None where it cannot run. `rounds`:
    in place of the plan's; `quick`: the least that runs at all. `more`: settings of the engine.

    `vllm_processes`: vLLM's engine in processes of its own, as it does unasked. In one it is faster
    where threads are two (60 to 290 rows/s, stand-in), and a worker that waits does not keep a
    quarter of a core busy beside the others.
    """

    threads: int
    logs: Path
    vllm: Path | None
    vllm_processes: bool
    rounds: int | None
    quick: bool
    more: dict[str, Any]
    say: Say

    def cell(self, shape: str, texts: str, kind: str) -> plan.Cell:
        """The plan's cell under these terms."""
        cell = plan.cell(shape, texts, kind)
        rows, swept, batches = cell.rows, cell.swept, cell.batches
        rounds, fewer = cell.rounds, cell.fewer
        if self.quick:
            rows, swept, batches, rounds, fewer = min(rows, 10), min(swept, 4), batches[-1:], 1, 1
            if rows < 10 and kind == "whole":
                rows = 5
        if self.rounds is not None:
            rounds, fewer = self.rounds, min(fewer, self.rounds)
        return plan.Cell(rows, rounds, fewer, batches, swept)


@contextlib.contextmanager
def vllm_worker(
    terms: Terms, checkpoint: Path, shape: str, kind: str
) -> Iterator[tuple[Worker | None, dict[str, Any]]]:
    """vLLM with a checkpoint, and what it says of itself; None where it cannot run."""
    if terms.vllm is None:
        yield None, {}
        return
    cores = sorted(os.sched_getaffinity(0))[: terms.threads]
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if terms.vllm_processes else "0",
        # Its own choice leaves cores out where two are of one hyperthreaded pair.
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    log = terms.logs / f"vllm-{shape}-{kind}.log"
    with Worker("vllm", log, python=terms.vllm, env=env) as worker:
        terms.say(f"{shape}: loading vLLM")
        block = BLOCK if kind == "scores" else None
        about = worker.ask("load", checkpoint=str(checkpoint), block=block, context=CONTEXT)
        yield worker, about


class Contest:
    """The contestants on one checkpoint."""

    def __init__(
        self, shape: str, checkpoint: Path, ours: Worker, theirs: Worker, terms: Terms
    ) -> None:
        self._shape = shape
        self._checkpoint = checkpoint
        self._ours = ours
        self._theirs = theirs
        self._terms = terms
        self._counter = Counter(checkpoint)
        self._texts = Texts(f"{shape}-1", self._counter.tokens)
        self._config = json.loads((checkpoint / "config.json").read_text())

    def about(self) -> dict[str, Any]:
        """The shape, for the results."""
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
        return {
            **{name: self._config[name] for name in names},
            "prefix_tokens": {
                "prompt": self._counter.prefix["user"],
                "response": self._counter.prefix["assistant"],
            },
        }

    def load(self, name: str, *, floor: float, refusal: bool, dtype: str = "float32") -> Any:
        """An engine, by the name of its entrant."""
        wanted = {"threads": self._terms.threads, "floor": floor, "refusal": refusal}
        return self._ours.ask(
            "load",
            name=name,
            checkpoint=str(self._checkpoint),
            wanted={**wanted, "dtype": dtype, **self._terms.more},
        )

    def scores(self, texts: str, vllm: Worker | None, vllm_about: dict[str, Any]) -> dict[str, Any]:
        """Scores only: the engine beside both that are forced."""
        cell = self._terms.cell(self._shape, texts, "scores")
        about = self.load("scores", floor=0, refusal=False)
        ours = Entrant("engine", self._ours, {"name": "scores"}, cell.rounds)
        peers = self._peers("scores", cell, vllm)
        rounds = [self._texts.conversations(texts, cell.rows) for _ in range(cell.rounds)]
        self._compare(ours, peers, cell, texts, rounds)
        agreement = {peer.name: difference(ours, peer) for peer in peers}
        result = self._result(f"{texts}/scores", ours, peers, rounds, vllm_about)
        result["agreement"] = {
            "bar": plan.AGREEMENT,
            "met": all(found["largest"] <= plan.AGREEMENT for found in agreement.values()),
            **agreement,
        }
        result["engine"] = about
        result["sgemm"] = self._sgemm(ours, rounds)
        return result

    def whole(self, texts: str, vllm: Worker | None, vllm_about: dict[str, Any]) -> dict[str, Any]:
        """Whole answers: the engine beside those that generate them."""
        cell = self._terms.cell(self._shape, texts, "whole")
        dealt = self._dealt(texts, cell)
        about = self.load("whole", floor=dealt.floor, refusal=True)
        ours = Entrant("engine", self._ours, {"name": "whole"}, cell.rounds)
        peers = self._peers("whole", cell, vllm)
        self._compare(ours, peers, cell, texts, dealt.rounds)
        self._ours.ask("forget", name="whole")
        for peer in peers:
            _all_tokens(peer, dealt.rounds)
        result = self._result(f"{texts}/whole", ours, peers, dealt.rounds, vllm_about)
        answers = [answer for run in ours.answers for answer in run]
        listed = [len(answer["categories"]) for answer in answers if answer["categories"]]
        result["floor"] = {
            "value": dealt.floor,
            "rows_with_categories": round(len(listed) / len(answers), 4),
            "categories_of_such_a_row": round(sum(listed) / max(1, len(listed)), 2),
            "responses_with_a_refusal": round(
                sum(answer["refusal"] is not None for answer in answers)
                / sum(row[-1]["role"] == "assistant" for run in dealt.rounds for row in run),
                4,
            ),
            "rows_left_out_since_not_safe": dealt.surplus,
        }
        result["engine"] = about
        return result

    def dtypes(self, texts: str) -> dict[str, Any] | None:
        """The engine in its other dtypes beside itself in float32; None where it has no other."""
        cell = self._terms.cell(self._shape, texts, "scores")
        self._ours.ask("forget", name="scores")
        rounds_of = max(1, min(cell.rounds, 5))
        entrants, abouts = [], {}
        for dtype in ("float32", "bfloat16", "int8"):
            about = self.load(dtype, floor=0, refusal=False, dtype=dtype)
            if "settings" in about:
                entrants.append(Entrant(dtype, self._ours, {"name": dtype}, rounds_of))
                abouts[dtype] = about
        result: dict[str, Any] | None = None
        if len(entrants) > 1:
            rounds = [self._texts.conversations(texts, cell.rows) for _ in range(rounds_of)]
            self._warm(entrants, texts, cell)
            alternate(entrants, rounds, self._say(texts, "dtypes"))
            reference, others = entrants[0], entrants[1:]
            best = max(others, key=lambda entrant: ratio(entrant, reference)["median"])
            result = {
                "rows": cell.rows,
                "entrants": {entrant.name: entrant.summary() for entrant in entrants},
                "to_float32": {each.name: ratio(each, reference) for each in others},
                "agreement_with_float32": {
                    each.name: difference(reference, each) for each in others
                },
                "fastest": best.name,
                "engine": abouts,
            }
        for entrant in entrants:
            self._ours.ask("forget", name=entrant.options["name"])
        return result

    def _peers(self, kind: str, cell: plan.Cell, vllm: Worker | None) -> list[Entrant]:
        plain, served = plan.PEERS[kind]
        mode = "forced" if kind == "scores" else "generate"
        # Without a bar of its own in scores only, transformers takes part in fewer rounds.
        peers = [Entrant(plain, self._theirs, {"mode": mode}, cell.fewer)]
        if vllm is not None:
            peers.append(Entrant(served, vllm, {"mode": mode}, cell.rounds))
        return peers

    def _compare(
        self,
        ours: Entrant,
        peers: Sequence[Entrant],
        cell: plan.Cell,
        texts: str,
        rounds: Sequence[list[Messages]],
    ) -> None:
        say = self._say(texts, ours.options["name"])
        self._warm([ours], texts, cell)
        for peer in peers:
            peer.find_batch(cell.batches, lambda: self._texts.conversations(texts, cell.swept), say)
        alternate([ours, *peers], rounds, say)

    def _warm(self, entrants: Sequence[Entrant], texts: str, cell: plan.Cell) -> None:
        for entrant in entrants:
            entrant.worker.run(self._texts.conversations(texts, cell.swept), **entrant.options)

    def _dealt(self, texts: str, cell: plan.Cell) -> Dealt:
        """Rows and a floor. More rows are made until enough of them are Safe."""
        self.load("scores", floor=0, refusal=False)
        rows: list[Messages] = []
        safe: list[float] = []
        prompts = round(cell.rows * PROMPTS)
        while True:
            new = self._texts.conversations(texts, cell.rows * cell.rounds)
            rows += new
            ran = self._ours.run(new, name="scores")
            safe += [answer["scores"][0] for answer in ran["answers"]]
            dealt = deal(rows, safe, cell.rounds, cell.rows, prompts)
            if dealt is not None:
                self._ours.ask("forget", name="scores")  # 2.4 GB at 0.6B
                return dealt
            self._say(texts, "whole")("more texts are made: too few are Safe")

    def _result(
        self,
        cell: str,
        ours: Entrant,
        peers: Sequence[Entrant],
        rounds: Sequence[list[Messages]],
        vllm_about: dict[str, Any],
    ) -> dict[str, Any]:
        texts, kind = cell.split("/")
        ratios = {peer.name: ratio(ours, peer) for peer in peers}
        prompts = sum(row[-1]["role"] == "user" for row in rounds[0])
        found = []
        for bar in plan.bars(self._shape, texts, kind):
            measured = ratios.get(bar.peer)
            met = None if measured is None else measured["median"] >= bar.least
            found.append({"peer": bar.peer, "least": bar.least, "met": met})
        return {
            "rows": len(rounds[0]),
            "rounds": len(rounds),
            "mix": {"prompts": prompts, "responses": len(rounds[0]) - prompts},
            **({"categories_for": SHARE} if kind == "whole" else {}),
            "entrants": {each.name: each.summary() for each in (ours, *peers)},
            "tokens_a_row": self._tokens(ours, peers, rounds),
            "ratios": ratios,
            "bars": found,
            "vllm": vllm_about,
        }

    def _tokens(
        self, ours: Entrant, peers: Sequence[Entrant], rounds: Sequence[list[Messages]]
    ) -> dict[str, float]:
        """The tokens that each has to compute for a row, in the mean."""

        def mean(counts: list[int]) -> float:
            return round(sum(counts) / len(counts), 1)

        rows = [row for each in rounds for row in each]
        answers = [answer for each in ours.answers for answer in each]
        tokens = {
            "rendered": mean(self._counter.whole(rows)),
            "engine": mean(self._counter.engine(rows, answers)),
        }
        for peer in peers:
            forced = peer.options["mode"] == "forced"
            some = [row for each in rounds[: len(peer.rates)] for row in each]
            counts = (self._counter.forced if forced else self._counter.generating)(some)
            cached = sum(more.get("cached_tokens", 0) for more in peer.more)
            tokens[peer.name] = round((sum(counts) - cached) / len(some), 1)
        return tokens

    def _sgemm(self, ours: Entrant, rounds: Sequence[list[Messages]]) -> dict[str, Any]:
        """What share of the matmuls' own speed the engine reaches, all else counted as loss.

        Counted are the real tokens behind the prefix in the layers' linears, nothing of padding,
        attention or head.
        """
        budget = self._terms.more.get("token_budget", 2048)
        sizes = linears(self._config)
        peaks = self._ours.ask("peak", rows=budget, linears=list(sizes.values()))
        peak = max(peaks.values())
        per_token = self._config["num_hidden_layers"] * sum(2 * i * o for i, o in sizes.values())
        shares = []
        for rows, answers, rate in zip(rounds, ours.answers, ours.rates, strict=True):
            tokens = sum(self._counter.engine(rows, answers))
            shares.append(tokens * per_token * rate / len(rows) / peak)
        return {
            "rows": budget,
            "peak_gflops": {name: round(flops / 1e9, 1) for name, flops in peaks.items()},
            "share_of_peak": round(sorted(shares)[len(shares) // 2], 3),
        }

    def _say(self, texts: str, kind: str) -> Say:
        return lambda sentence: self._terms.say(f"{self._shape}, {texts}, {kind}: {sentence}")


def _all_tokens(peer: Entrant, rounds: Sequence[list[Messages]]) -> None:
    """Nobody has ended an answer early."""
    for rows, answers in zip(rounds, peer.answers, strict=False):
        for row, answer in zip(rows, answers, strict=True):
            if answer["generated"] != answer_tokens(row):
                raise RuntimeError(
                    f"{peer.name} made {answer['generated']} tokens, not {answer_tokens(row)}"
                )


def measure(
    shape: str,
    checkpoint: Path,
    results: Results,
    terms: Terms,
    *,
    texts: Sequence[str],
    only: Sequence[str],
) -> None:
    """All cells of a shape that are wanted and not there yet."""

    def open_cells(kind: str, some: Sequence[str]) -> list[tuple[str, str]]:
        names = [(text, f"{shape}/{text}/{kind}") for text in some]
        return [each for each in names if kind in only and not results.has(each[1])]

    wanted = {kind: open_cells(kind, texts) for kind in plan.PEERS}
    dtypes = open_cells("dtypes", [text for text in texts if text == "traffic"])
    if not any((*wanted.values(), dtypes)):
        return
    ours = Worker("engine", terms.logs / f"engine-{shape}.log", env={})
    theirs = Worker("transformers", terms.logs / f"transformers-{shape}.log", env={})
    with ours, theirs:
        terms.say(f"{shape}: loading transformers")
        theirs.ask("load", checkpoint=str(checkpoint), threads=terms.threads)
        contest = Contest(shape, checkpoint, ours, theirs, terms)
        results.body["shapes"][shape] = contest.about()
        for kind, cells in wanted.items():
            if not cells:
                continue
            with vllm_worker(terms, checkpoint, shape, kind) as (vllm, about):
                for text, name in cells:
                    run = contest.scores if kind == "scores" else contest.whole
                    results.add(name, run(text, vllm, about))
        for text, name in dtypes:
            found = contest.dtypes(text)
            if found is None:
                terms.say(f"{shape}: the engine has no other dtype on a CPU")
            else:
                results.add(name, found)
