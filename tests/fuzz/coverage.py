"""Atheris: the same targets, with mutations guided by what they reach in our code.

Our modules are instrumented as they are imported, so this module imports none before. Half of the
mutations are the structured ones of `mutate`, half are libFuzzer's own. `run` ends the process.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Final

import atheris  # type: ignore[import-untyped]

PACKAGES: Final = [
    "facility", "predictors", "controllers", "collectors", "actuators", "simulator", "daemon"
]  # fmt: skip
LENGTH_MAX: Final = 4_096
HANG_S: Final = 20
"""Wall clock, on a busy machine and with instrumented code: the seeded driver is the strict one."""
RSS_MB: Final = 1_024
FED_BEFORE_NEW: Final = 500


def run(name: str, *, seconds: int) -> int:
    """Fuzz one target for some seconds; the process ends with 0, or with a finding's code."""
    with atheris.instrument_imports(include=PACKAGES, enable_loader_override=False):
        from tests.fuzz.catalogue import catalogue
        from tests.fuzz.driver import quiet
        from tests.fuzz.mutate import Mutator
    kind = catalogue()[name]
    target, fed = kind.build(), 0

    def feed(data: bytes) -> None:
        nonlocal target, fed
        if not data:
            return
        if fed % FED_BEFORE_NEW == FED_BEFORE_NEW - 1:
            target.close()
            target = kind.build()
        fed += 1
        target.feed(target.fresh(data, fed % FED_BEFORE_NEW))

    def change(data: bytes, size_max: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if len(data) > 1 and rng.random() < 0.5:
            mutator, body = Mutator(rng), data[1:]
            other = rng.choice(kind.seeds)[1:]
            if kind.how == "text":
                body = mutator.file(body, [other])
            else:
                body = mutator.raw(body, [other]) if rng.random() < 0.5 else _message(mutator, body)
            return (data[:1] + body)[:size_max]
        changed: bytes = atheris.Mutate(data, size_max)
        return changed

    def _message(mutator: Mutator, body: bytes) -> bytes:
        try:
            return mutator.message(body)
        except (ValueError, RecursionError):
            return mutator.raw(body)  # what was mutated before is no JSON any more

    with tempfile.TemporaryDirectory(prefix="ampacity-fuzz-") as folder, quiet():
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for place, seed in enumerate(kind.seeds):
            (corpus / f"seed-{place}").write_bytes(seed)
        options = [
            f"-max_total_time={seconds}", f"-max_len={LENGTH_MAX}", f"-timeout={HANG_S}",
            f"-rss_limit_mb={RSS_MB}", f"-artifact_prefix={Path.cwd()}/fuzz-{name}-",
            "-print_final_stats=1", "-close_fd_mask=0",
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *options, str(corpus)], feed, custom_mutator=change)
        atheris.Fuzz()
    return 0
