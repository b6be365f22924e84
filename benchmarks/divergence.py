"""The fused divergence beside its peers: time, and memory beyond inputs and gradients, forward + backward.

    python benchmarks/divergence.py --output divergence.json            # everything; about an hour on two cores
    python benchmarks/divergence.py --only jsd-n1024 --hidden 256       # one case
    python benchmarks/divergence.py --device cuda --output cuda.json    # the GPU's cases, in bfloat16; a minute

Contenders, each where it can be imported: TRL's chunked kernel (`_chunked_divergence_loss`), TRL's dense GKD loss and
Liger's fused JSD. Beside them the floor: the four matrix products that no exact method can avoid (two heads forward,
the gradients of student hidden states and head; three where the head is frozen), on the valid rows.

Each contender runs each case on tensors from one seed: on a CPU in a process of its own, with peak memory read from the
kernel's high-water mark; on a GPU one after another in one process, with the allocator's peak. Passes are interleaved,
so that a busy machine slows all alike. Ratios travel better than seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One loss on tensors of one size."""

    name: str
    beta: float  # of the generalised JSD as TRL defines it: 0 forward KL, 1 reverse KL
    rows: int
    vocabulary: int
    hidden: int
    valid: float = 1.0
    frozen_head: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    contenders: tuple[str, ...] = ("floor", "distillknob", "trl", "gkd", "liger")


def cases(hidden_sizes: list[int], device: str) -> list[Case]:
    """The issue's list. The growth in N asks for memory alone, of this library alone."""
    if device == "cuda":
        return [
            Case(f"gpu-{name}-h{hidden}", beta, 8192, 151_936, hidden, device="cuda", dtype="bfloat16")
            for hidden in (4096, 2048)
            for name, beta in (("jsd", 0.5), ("rkl", 1.0))
        ]
    listed = []
    for hidden in hidden_sizes:
        listed += [
            Case("jsd-n1024-v32768", 0.5, 1024, 32_768, hidden),
            Case("jsd-n512-v151936", 0.5, 512, 151_936, hidden),
            Case("rkl-n1024-v32768", 1.0, 1024, 32_768, hidden),
            Case("fkl-30%-valid-frozen-head", 0.0, 1024, 32_768, hidden, valid=0.3, frozen_head=True),
            Case("jsd-n4096-v2048", 0.5, 4096, 2_048, hidden),
        ]
    for rows in (256, 512, 1024, 2048, 4096, 8192):
        listed.append(Case(f"growth-n{rows}", 0.5, rows, 151_936, 256, contenders=("distillknob",)))
    return listed


# ---- In the child: one contender, one case --------------------------------------------------------------------------


def child(case: Case, contenders: list[str], rounds: int, threads: int) -> None:
    """Print a line for each contender: the seconds of each round and extra peak bytes, or why there are none."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype, device = getattr(torch, case.dtype), torch.device(case.device)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, device=device) * scale).to(dtype)

    hidden, teacher_hidden = draw(case.rows, case.hidden), draw(case.rows, case.hidden)
    head = draw(case.vocabulary, case.hidden, scale=3 / case.hidden**0.5)
    teacher_head = draw(case.vocabulary, case.hidden, scale=3 / case.hidden**0.5)
    mask = torch.rand(case.rows, device=device) < case.valid
    hidden.requires_grad_()
    head.requires_grad_(not case.frozen_head)
    tensors = hidden, head, teacher_hidden, teacher_head, mask
    for contender in contenders:
        try:
            told = contend(case, CONTENDERS[contender](case, mask), tensors, rounds, device)
        except (ImportError, torch.OutOfMemoryError) as error:
            told = {"skipped": str(error)[:200]}
        print(json.dumps({contender: told}), flush=True)
        hidden.grad = head.grad = None
        if case.device == "cuda":
            torch.cuda.empty_cache()


def contend(case: Case, step: Callable[..., float], tensors: Any, rounds: int, device: Any) -> dict[str, Any]:
    """Seconds, extra bytes and the loss of one contender."""
    hidden, head, teacher_hidden, teacher_head, mask = tensors

    def run(rows: int) -> float:
        hidden.grad = head.grad = None
        return step(hidden[:rows], head, teacher_hidden[:rows], teacher_head, mask[:rows])

    run(case.rows if case.device == "cuda" else 8)  # libraries load, kernels compile for their shapes
    hidden.grad = head.grad = None
    gradients = hidden.nbytes + (0 if case.frozen_head else head.nbytes)
    memory = Peak(device)
    seconds = [_timed(lambda: run(case.rows), device)]
    extra = memory.extra() - gradients
    while len(seconds) < rounds:
        seconds.append(_timed(lambda: run(case.rows), device))
    return {"seconds": seconds, "extra_bytes": extra, "value": run(case.rows)}


def _timed(call: Callable[[], Any], device: Any) -> float:
    import torch

    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Peak:
    """Peak memory above what is held now: of the process on Linux, of the allocator on a GPU."""

    def __init__(self, device: Any) -> None:
        import torch

        self.cuda = torch.cuda if device.type == "cuda" else None
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
            self.before = self.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
            self.before = self._status("VmRSS")

    def extra(self) -> int:
        """How many bytes more were held at the peak."""
        return (self.cuda.max_memory_allocated() if self.cuda else self._status("VmHWM")) - self.before

    @staticmethod
    def _status(field: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise OSError(f"/proc/self/status has no {field}")


def _floor(case: Case, mask: Any) -> Callable[..., float]:
    import torch

    def step(hidden: Any, head: Any, teacher_hidden: Any, teacher_head: Any, mask: Any) -> float:
        with torch.no_grad():
            count = int(mask.sum())
            grad_head = None if case.frozen_head else torch.zeros_like(head)
            most = 2048 if case.device == "cuda" else 256
            logits = torch.empty((min(most, max(count, 1)), len(head)), dtype=head.dtype, device=head.device)
            for start in range(0, count, most):
                rows = hidden[start : min(start + most, count)]
                out = logits[: len(rows)]
                torch.mm(teacher_hidden[start : start + len(rows)], teacher_head.t(), out=out)
                torch.mm(rows, head.t(), out=out)
                out @ head
                if grad_head is not None:
                    grad_head.addmm_(out.t(), rows)
        return 0.0

    return step


def _distillknob(case: Case, mask: Any) -> Callable[..., float]:
    from distillknob.divergences.fused import fused_divergence

    def step(hidden: Any, head: Any, teacher_hidden: Any, teacher_head: Any, mask: Any) -> float:
        loss = fused_divergence(hidden, head, teacher_hidden, teacher_head, "jsd", beta=case.beta, mask=mask)
        loss.backward()
        return loss.item()

    return step


def _trl(case: Case, mask: Any) -> Callable[..., float]:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    def step(hidden: Any, head: Any, teacher_hidden: Any, teacher_head: Any, mask: Any) -> float:
        loss, _, _ = _chunked_divergence_loss(
            hidden.unsqueeze(0), teacher_hidden.unsqueeze(0), head, teacher_head, mask.unsqueeze(0), case.beta
        )
        loss.backward()
        return loss.item()

    return step


def _gkd(case: Case, mask: Any) -> Callable[..., float]:
    import torch
    from trl.experimental.gkd import GKDTrainer

    def step(hidden: Any, head: Any, teacher_hidden: Any, teacher_head: Any, mask: Any) -> float:
        labels = torch.where(mask, 0, -100).unsqueeze(0)
        with torch.no_grad():
            teacher_logits = (teacher_hidden @ teacher_head.t()).unsqueeze(0)
        student_logits = (hidden @ head.t()).unsqueeze(0)
        loss = GKDTrainer.generalized_jsd_loss(student_logits, teacher_logits, labels, beta=case.beta)
        loss.backward()
        return loss.item()

    return step


def _liger(case: Case, mask: Any) -> Callable[..., float]:
    import torch
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    compiled = case.device == "cuda"
    loss_of = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=case.beta, compiled=compiled)

    def step(hidden: Any, head: Any, teacher_hidden: Any, teacher_head: Any, mask: Any) -> float:
        labels = torch.where(mask, 0, -100)
        loss = loss_of(hidden, head, teacher_hidden, teacher_head, labels)
        loss.backward()
        return loss.item()

    return step


CONTENDERS = {"floor": _floor, "distillknob": _distillknob, "trl": _trl, "gkd": _gkd, "liger": _liger}


# ---- In the parent --------------------------------------------------------------------------------------------------


def measure(case: Case, rounds: int, passes: int, threads: int, timeout: float) -> dict[str, Any]:
    """All contenders of a case, `passes` times over in turn; the best round and the largest memory of each. On a CPU
    each has a process of its own; a GPU's allocator can be asked about each of a process."""
    groups = [case.contenders] if case.device == "cuda" else [(contender,) for contender in case.contenders]
    results: dict[str, Any] = {}
    for _ in range(passes):
        for group in groups:
            arguments = json.dumps({"case": asdict(case), "contenders": group, "rounds": rounds, "threads": threads})
            try:
                done = subprocess.run(
                    [sys.executable, __file__, "--child", arguments],
                    capture_output=True,
                    text=True,
                    timeout=timeout,
                    env=os.environ | {"OMP_NUM_THREADS": str(threads), "TRL_EXPERIMENTAL_SILENCE": "1"},
                )
                printed, failed = done.stdout, (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
            except subprocess.TimeoutExpired as error:
                out = error.stdout or b""
                printed = out if isinstance(out, str) else out.decode()
                failed = f"over {timeout:.0f} s"
            told: dict[str, Any] = {contender: {"skipped": failed} for contender in group}
            for line in printed.splitlines():
                told |= json.loads(line) if line.startswith("{") else {}
            for contender, new in told.items():
                old = results.get(contender, {})
                if "seconds" in old and "seconds" in new:
                    new["seconds"] = old["seconds"] + new["seconds"]
                    new["extra_bytes"] = max(old["extra_bytes"], new["extra_bytes"])
                results[contender] = new
    return results


def table(measured: list[dict[str, Any]]) -> str:
    """All cases as one Markdown table: seconds and extra memory of each contender, and ours over theirs."""
    names = list(dict.fromkeys(name for one in measured for name in one["results"]))
    head = ["case", "N", "V", "H", *(f"{name}, s" for name in names)]
    head += [f"ours / {name}" for name in names if name != "distillknob"] + [f"{name}, MB" for name in names]
    lines = [head, ["---"] * len(head)]
    for one in measured:
        case, results = one["case"], one["results"]
        best = {name: min(told["seconds"]) for name, told in results.items() if "seconds" in told}
        ours = best.get("distillknob")
        line = [case["name"], f"{case['rows']:,}", f"{case['vocabulary']:,}", f"{case['hidden']:,}"]
        line += [f"{best[name]:.4f}" if name in best else "–" for name in names]
        others = [name for name in names if name != "distillknob"]
        line += [f"{ours / best[name]:.2f}" if ours is not None and name in best else "–" for name in others]
        line += [f"{results[name]['extra_bytes'] / 1e6:,.0f}" if name in best else "–" for name in names]
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(case: Case, results: dict[str, Any]) -> None:
    """One line a contender: seconds, × floor, ours relative to it, extra memory in [N, V] float32 tensors."""
    best = {name: min(told["seconds"]) for name, told in results.items() if "seconds" in told}
    print(f"\n{case.name}  H={case.hidden}  N={case.rows}  V={case.vocabulary}  {case.dtype} on {case.device}")
    print(f"  {'':12} {'seconds':>9} {'x floor':>8} {'ours/it':>8} {'extra MB':>9} {'x N*V*4':>8}   loss")
    for name, told in results.items():
        if name not in best:
            print(f"  {name:12} skipped: {told['skipped'][:90]}")
            continue
        floor = f"{best[name] / best['floor']:8.2f}" if "floor" in best else " " * 8
        ours = f"{best['distillknob'] / best[name]:8.2f}" if "distillknob" in best else " " * 8
        logits = told["extra_bytes"] / (case.rows * case.vocabulary * 4)
        memory = f"{told['extra_bytes'] / 1e6:9.0f} {logits:8.2f}"
        print(f"  {name:12} {best[name]:9.3f} {floor} {ours} {memory}   {told['value']:.6g}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="timed runs a process")
    parser.add_argument("--passes", type=int, default=2, help="processes a contender")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds a process may take")
    parser.add_argument("--output", type=Path, help="write the measurements as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        asked = json.loads(given.child)
        case = Case(**asked["case"])
        child(case, asked["contenders"], asked["rounds"], asked["threads"])
        return
    chosen = [case for case in cases(given.hidden, given.device) if given.only in case.name]
    if not chosen:
        names = ", ".join(dict.fromkeys(case.name for case in cases(given.hidden, given.device)))
        parser.error(f"no case is named like {given.only!r}; there are: {names}")
    measured = []
    for case in chosen:
        results = measure(case, given.rounds, given.passes, given.threads, given.timeout)
        show(case, results)
        measured.append({"case": asdict(case), "results": results})
        if given.output:  # after every case: an interrupted run keeps what it has
            machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
            settings = {"threads": given.threads, "rounds": given.rounds, "passes": given.passes}
            given.output.write_text(json.dumps({**machine, **settings, "measured": measured}, indent=2) + "\n")
    print(f"\n{table(measured)}")


if __name__ == "__main__":
    main()
