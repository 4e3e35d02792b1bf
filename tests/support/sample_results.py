"""Results made by hand for the tests of reports."""

from moeverify.report.result import VerificationResult
from moeverify.verdict import CaseFacts, Status, Verdict

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"


def verdict(source, check, status, message="says so", **evidence):
    return Verdict(source, "moe", check, status, message, evidence, f"moeverify verify {source}", 0.5)


def result(*verdicts, cases=(), **more):
    settings = {"subject": "moe", "pruning_ratio": 0.5, "seed": 0, "sources": [], "checks": []}
    values = {"settings": settings, "versions": {"torch": "2"}, "created": "2026-01-02T03:04:05+00:00", "seconds": 1.0}
    return VerificationResult(tuple(verdicts), tuple(cases), **{**values, **more})


def facts(source, **more):
    experts = [f"layers.0.experts.{k}" for k in range(3)]
    known = {
        "model_type": "toy",
        "config": {"hidden_size": 8, "name_or_path": "somewhere"},
        "dtype": "float32",
        "seed": 0,
        "pruning_ratio": 0.5,
        "parameters_before": 1000,
        "parameters_after": 600,
        "sizes": [{"role": "routed_experts", "where": "layers.*.experts", "classes": 2, "before": 8, "after": 4}],
        "isolation": [
            {"layer": "layers.0", "experts": experts, "own": [8, 8, 8], "leaks": [[0, 2, 8]], "leak_count": 1}
        ],
        "roles": {"experts": experts, "routers": ["layers.0.gate"], "shared_experts": []},
        "frozen": [{"where": "embed dim 0", "operation": "aten.embedding", "reason": "rows are chosen by data"}],
        "unknown_operations": [],
        "notes": [],
        "expansions": 12,
        "seconds": {"load": 0.1, "prune": 0.2},
    }
    return CaseFacts(source, "moe", {**known, **more})


def mixed():
    """One model that passes, one that fails with a leak, one that hangs and has a hostile name."""
    tokens = {f"layers.0.experts.{k}": 5 + k for k in range(3)}
    return result(
        verdict("zoo:good", "terminates", Status.PASS),
        verdict("zoo:good", "forward-every-expert", Status.PASS, tokens=tokens),
        verdict("zoo:leaky", "terminates", Status.PASS),
        verdict("zoo:leaky", "expert-isolation", Status.FAIL, "experts leak", leaks=[{"from": "a", "to": "b"}]),
        verdict(HOSTILE, "terminates", Status.TIMEOUT, HOSTILE, frames=[HOSTILE]),
        cases=(facts("zoo:good"), facts("zoo:leaky"), facts(HOSTILE, notes=[HOSTILE], model_type=HOSTILE)),
    )


def curves():
    """One model with scores of two tasks at three ratios, and an engine that does not serve it."""

    def point(ratio, left, **values):
        scores = {name: {"value": value, "stderr": 0.01, "chance": 0.25} for name, value in values.items()}
        return {"ratio": ratio, "left": left, "scores": scores}

    quality = {
        "points": [point(0, 1.0, arc=0.62, piqa=0.71), point(0.25, 0.8, arc=0.6, piqa=0.7),
                   point(0.5, 0.6, arc=0.55, piqa=0.66)],
        "at_random": {"ratio": 0.5, "mean": 0.4},
        "removed": "experts",
        "tasks": {"arc": {}, "piqa": {}},
        "settings": {"tasks": ["arc", "piqa"], "limit": None, "seed": 0, "num_fewshot": None},
        "versions": {"lm_eval": "0.4.13"},
    }  # fmt: skip
    engines = [
        {"engine": "vllm", "version": "1", "status": "pass", "message": "vllm 1 answers",
         "base": [1e-6], "pruned": [2e-6]},
        {"engine": "llama.cpp", "version": "2", "status": "fail", "message": "refuses it: KeyError: experts.3",
         "base": [1e-5], "pruned": [], "limits": ["hidden 100: k-quants want 256"]},
    ]  # fmt: skip
    return result(
        verdict("zoo:scored", "served", Status.FAIL, "llama.cpp refuses it", engines=engines),
        cases=(facts("zoo:scored", quality=quality),),
    )
