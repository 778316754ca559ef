"""Recorded loads: the files that `--trace` reads."""

from __future__ import annotations

import gzip

from simulator.loads.formats import parse_file
from simulator.loads.rows import TraceError
from simulator.loads.trace import Trace
from tests.fuzz.files import check_size
from tests.fuzz.target import ACCEPTED, Plain, through


class TraceTarget(Plain):
    """A recorded trace: read whole, or refused with its bad rows."""

    def feed(self, data: bytes) -> str:
        try:
            trace = parse_file("f", data[1:])
        except TraceError as error:
            return check_size(str(error))
        if not isinstance(trace, Trace):
            assert trace.envelope.mean_per_s > 0.0
            assert trace.cv >= 1.0
            return ACCEPTED
        assert len(trace.at_s) == len(trace.context_tokens) == len(trace.generated_tokens) >= 2
        assert trace.span_s > 0.0
        return ACCEPTED


def trace_seeds() -> list[bytes]:
    """A short recording in each format, and one packed."""
    text = (
        b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
        b"2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
        b"2024-05-10 00:00:00.009930+00:00,10,5\n"
    )
    lines = b'{"timestamp": 0, "input_length": 6, "output_length": 2, "hash_ids": [0, 1]}\n'
    clients = b"client,t_s,rate_rps,cv,pattern,param1,param2\n0,0,1.33,8.6,Weibull,0.38,0.4\n"
    aggregate = (
        b"t_s,active_clients,rate_rps,rate_weighted_cv,mean_input_tokens,mean_output_tokens,"
        b"token_pdf_rate_coverage\n0,43,212.7,2.1,355.4,292.5,0.675\n600,40,179.7,1.5,,,0.0\n"
    )
    week = (
        b"time_utc,req_per_min_mid,req_per_min_lo,req_per_min_hi,req_per_min_mid_normalised\n"
        b"2024-05-12T00:07:12Z,1206.1,805.5,1606.7,1212.0\n"
        b"2024-05-12T00:14:25Z,1453.8,1300.8,1606.7,1460.8\n"
    )
    texts = (
        text,
        lines + lines.replace(b" 0,", b" 27482,", 1),
        clients + b"0,1200,0.273,6.0,Gamma,0.495,3.4\n1,600,2,1,Gamma,1,2\n",
        aggregate,
        week,
    )
    return [*(through(0, each) for each in texts), through(0, gzip.compress(text, mtime=0))]
