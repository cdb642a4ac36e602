"""Fuzz one target with atheris for some seconds: `python tests/fuzz/run.py TARGET [--seconds N] [--scratch DIR]`.

The target runs in a process of its own, with the committed corpus to start from and a scratch folder that takes new
inputs and is kept. Exit code 0: nothing was found. 1: a finding, whose input is kept and printed. 2: no such target.
"""

# ruff: noqa: T201 - a command that prints

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / ".fuzz"
SOURCE = str(HERE.parents[1] / "src" / "anwen")
SECONDS_AN_INPUT = 10
MEBIBYTES = 2048
"""Of the whole process: libraries, instrumentation and libFuzzer's own included."""


def inside(target, scratch, seconds):
    """Fuzz in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["anwen", "tomllib", "stdnum"], enable_loader_override=False):
        import targets
    targets.quieten()
    run = targets.TARGETS[target]
    seeds = targets.CORPUS / target
    options = [
        f"-max_total_time={seconds}", f"-timeout={SECONDS_AN_INPUT}", f"-rss_limit_mb={MEBIBYTES}", "-print_final_stats=1",
        f"-artifact_prefix={scratch}/found-", "-max_len=4096", "-len_control=50", "-detect_leaks=0", "-reload=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], str(scratch / "corpus"), *([str(seeds)] if seeds.is_dir() else []), *options], run)
    atheris.Fuzz()


def outside(target, scratch, seconds):
    """Run `inside` in a process of its own; return its exit code, what it found, and its figures."""
    (scratch / "corpus").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, target, "--inside", "--seconds", str(seconds), "--scratch", str(scratch)]
    known = set(scratch.glob("found-*"))
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    (scratch / "log").write_text(done.stdout + done.stderr)
    found = sorted(set(scratch.glob("found-*")) - known)
    return done.returncode, found, done.stdout + done.stderr


def figures(said):
    """Executions, executions a second and covered edges, from what libFuzzer said."""
    numbers = dict(re.findall(r"stat::(\w+):\s+(\d+)", said))
    covered = re.findall(r"cov: (\d+) ft: (\d+)", said)
    edges, features = covered[-1] if covered else ("0", "0")
    return (
        f"{numbers.get('number_of_executed_units', '?')} inputs, {numbers.get('average_exec_per_sec', '?')} a second, "
        f"{edges} edges, {features} features, {numbers.get('peak_rss_mb', '?')} MiB"
    )


def report(target, code, found, said):
    """Print what was found, if anything; return the exit code."""
    print(f"{target}: {figures(said)}")
    if not code:
        return 0
    print("\n".join(line for line in said.splitlines() if not line.startswith(("#", "INFO:")))[-4000:])
    for path in found:
        data = path.read_bytes()
        print(
            f"{target}: {path}\nreproduce: python tests/fuzz/run.py {target} --replay {path}\nbytes: {data[:512].hex()}"
        )
    return 1


def lines_of(target, data):
    """The lines of Anwen that one input runs."""
    seen = set()

    def local(frame, _event, _arg):
        seen.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def called(frame, _event, _arg):
        return local(frame, None, None) if SOURCE in frame.f_code.co_filename else None

    sys.settrace(called)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return seen


def keep(name, scratch):
    """Add to the committed corpus what reaches lines that nothing in it reaches, smallest first, while there is room."""
    import seeds
    import targets

    target, kept = targets.TARGETS[name], targets.corpus(name)
    seen = set().union(*(lines_of(target, path.read_bytes()) for path in kept))
    room = seeds.MOST_BYTES - sum(path.stat().st_size for path in kept)
    for path in sorted((scratch / "corpus").iterdir(), key=lambda p: (p.stat().st_size, p.name)):
        data = path.read_bytes()
        new = lines_of(target, data) - seen
        if new and len(data) <= room:
            seen |= new
            room -= len(data)
            (targets.CORPUS / name / f"kept-{path.name[:12]}").write_bytes(data)
    print(f"{name}: {len(targets.corpus(name))} files, {len(seen)} lines")
    return 0


def main():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--replay", type=Path, help="run one input through the target, without atheris")
    parser.add_argument("--keep", action="store_true", help="add inputs of the scratch folder to the corpus")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    scratch = (given.scratch or KEPT / given.target).absolute()
    if given.inside:
        return inside(given.target, scratch, given.seconds)
    sys.path.insert(0, str(HERE))
    import targets

    if given.target not in targets.TARGETS:
        print(f"no target {given.target}; there are {', '.join(targets.TARGETS)}")
        return 2
    targets.quieten()
    if given.replay:
        targets.TARGETS[given.target](given.replay.read_bytes())
        return 0
    if given.keep:
        return keep(given.target, scratch)
    KEPT.mkdir(exist_ok=True)
    (KEPT / ".gitignore").write_text("*\n")
    return report(given.target, *outside(given.target, scratch, given.seconds))


if __name__ == "__main__":
    sys.exit(main())
