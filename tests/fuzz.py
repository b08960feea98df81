"""Attacks the scripts at random, on tiny generated data, and counts what must not happen: `make fuzz`.

Whatever a script is given, it ends with exit code 0, or with another and a last line on stderr that begins
with its name; without a traceback, a line of over 1,000 characters, a character that steers a terminal or a
temporary file. A damaged file is named, or changes nothing. A run that was stopped ends, called again, with
the same bits. docs/robustness.md has figures.
"""

import argparse
import importlib
import io
import json
import os
import random
import re
import resource
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import NASTY, ROOT, clustered_interactions, without_sums  # sets what JAX reads at its import

from hyper_params import hyper_params, takes
from lib.files import atomic, write_parquet

SECONDS, MEMORY, LONGEST = 180, 2**33, 1000  # of an attack, which is killed then; characters of a line
TEMPORARY = ".tmp", ".partial", ".reading"
COMPLAINT = re.compile(r"^(?!note: ).*(Errno|Error\b|Exception|Warning:)", re.MULTILINE)
NO_LIMIT = resource.RLIM_INFINITY

# {places} are of a Lab.
SMALL = """distill.py --dataset=tiny --recipe=plain --keep_step=best --keep_lamda=step --user_support=6
    --num_per_user=10 --train_steps=60 --log_freq=5 --noise_groups=1 --batch_size=20 {where}"""
PREPARE = "prep.sh --file={raw} --titles={titles} --name=own --data_dir={results}"
OF_DATA = "baselines.py --dataset=tiny --model=pop {where}"
OF_RUN = [
    "recommend.py --run={run} --data_dir={data} --user=u1,u2 --format=csv",
    "recommend.py --run={run} --data_dir={data} --all --explain",
    "export.py --run={run} --format=csv --out={out}",
    "report.py --run={run} --data_dir={data} --out={out}",
    "compare.py --mine --runs={run} --results_dir={results}",
]
NAMED = [
    "baselines.py --model=pop --dataset={name} {where}",
    "baselines.py --model=pop --dataset=tiny --data_dir={data} --results_dir={out}/{name}",
    "grid_search_distill.py --dry-run --dataset=tiny --study={name} {where}",
    "prep.sh --file={results}/{name} --name={name} --data_dir={out}",
    "recommend.py --run={results}/{name} --data_dir={data} --all --explain",
    "recommend.py --run={run} --data_dir={data} --user=u1,u2 --format=csv --out={out}{name}",
    "export.py --run={results}/{name} --format=recbole --out={out}/{name}",
    "report.py --run={results}/{name} --data_dir={data} --out={out}/{name}",
    "compare.py --mine --results_dir={results}",
]
# How each script is called, with random settings at the end. Of a benchmark that there is not, all are read;
# without --mine or --plan, compare.py would write into docs/.
OPEN = {
    "distill.py --dataset=tiny {where}": "",
    "infinite_ae.py --dataset=tiny {where}": "",
    "baselines.py --dataset=tiny {where}": "",
    "stream.py --dataset=tiny --parts=2 --user_support=4 {where}": "",
    "bench.py none {where}": "",
    "compare.py --mine {where}": "dataset runs",
    "compare.py --plan {where}": "",
    "grid_search_distill.py --dry-run --dataset=tiny {where}": "storage study sampler trials gpu_ids report",
    "recommend.py --run={run}": "user all items history similar-to only k explain format out data_dir",
    "export.py --run={run}": "format values seed out",
    "report.py --run={run}": "data_dir out",
    PREPARE: "user-col item-col format delimiter header encoding min-count since split seed sha256",
}
FILES = "config.json result.json metrics.jsonl distilled.npz users.npz sums.json".split()
DATA = "total_data.hdf5 index.npz users.csv items.csv manifest.json".split()
TEXTS = "-1 0 1.5 1e308 -1e-320 nan -Infinity 2147483648 true null [] {} [[1]] auto best -- - = ..".split()
LONG = [400 * "9", 5000 * "[", 100_000 * "x", 5000 * "x "]
VALUES = ["", " ", '{"a": [1]}', '"', "\x1b[31mred", "a\nb", "\u2028", "\udcff", "\x85", *LONG, *TEXTS]
NAMES = "? a?b=c#d %25 %2e%2e .. . ../x --k=1 $HOME ' \" \\ é * [a] %s 1e5 a,b ; & | : ~ 😀 e\u0301".split()
NAMES += [" on ", "a on b", 300 * "x", 130 * "é", "\udcff", "\x1b[2J", "\n", "\t", "\u202e", *TEXTS, *NASTY]


def become(script, words, temporary, largest_file):
    """In a fork: does what `python script words` does, without the seconds of its imports, and ends."""
    os.closerange(3, 256)  # with the pipe on which subprocess waits for an exec
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
    sys.modules.pop("lib.start", None)
    sys.argv, code = [str(script), *words], 0
    if largest_file != NO_LIMIT:  # the cache could not be written either
        importlib.import_module("jax").config.update("jax_compilation_cache_dir", None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
    except OSError:
        code = 120  # as the interpreter ends
    sys.stderr.flush()
    os._exit(code)


class Attack:
    """A command, as in OF_RUN, in a fork of this process, and in `faults` what is wrong with its end."""

    def __init__(self, lab, command, *more, largest_file=NO_LIMIT, stdout=subprocess.PIPE):
        command = command.replace("{where}", "--data_dir={data} --results_dir={results}").split()
        self.script, *words = [word.format(**lab.places) for word in command]
        self.words = [word.replace("\0", "") for word in (*words, *more)]
        self.lab, self.sent, self.faults = lab, None, []
        path = ROOT / ("prep/preprocess.py" if self.script == "prep.sh" else self.script)
        enter = lambda: become(path, self.words, lab.temporary, largest_file)  # never gets to the exec
        pipes = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": subprocess.PIPE}
        options = {"restore_signals": False, "preexec_fn": enter, "cwd": lab.folder, **pipes}
        self.process = subprocess.Popen(["true"], **options)

    def __str__(self):
        return ascii(shlex.join([self.script, *self.words]))[1:-1][:2000]

    def stop(self, number):
        self.sent = number
        self.process.send_signal(number)

    def end(self):
        """Waits for the end and judges it; self."""
        say = lambda fault, what: self.faults.append((fault, what))
        try:
            outputs = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            say("exit code", f"none after {SECONDS} s")
            self.stop(signal.SIGKILL)
            outputs = self.process.communicate()
        self.out, self.errors = ((output or b"").decode(errors="replace") for output in outputs)
        self.code, text = self.process.returncode, self.out + self.errors
        last = (self.errors.splitlines() or ["no line"])[-1]
        begins = last.startswith((f"{self.script.removesuffix('.py')}: ", "interrupted"))
        if "Traceback (most" in text or "Fatal Python" in text or (self.code < 0 and not self.sent):
            say("traceback", f"{self.code}: {text[-400:]}")
        elif self.code == 0 and re.search(COMPLAINT, self.errors):
            say("exit code", f"0, but {last[:300]}")
        elif self.code > 0 and not self.sent and not begins:
            say("exit code", f"{self.code}, but {last[:300]}")
        said = self.errors if "--format=csv" in self.words else text  # a .csv has titles as they are
        for line in said.split("\n"):
            if len(line) > LONGEST or not line.isprintable():
                say("line", line[:200])
        if self.sent != signal.SIGKILL:
            left = [path for path in self.lab.folder.rglob(".*") if path.suffix in TEMPORARY]
            for path in (*left, *self.lab.temporary.iterdir()):
                say("left behind", path.name)
        return self


def write_table(path, table):
    if path.suffix == ".parquet":
        with atomic(path) as file:
            write_parquet(file, table)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False)


class Lab:
    """What attacks begin with: a data set, a raw table and a finished run; `places` are for commands."""

    def __init__(self, base):
        self.base, self.folder, self.outputs, rng = base, base / "attack", {}, np.random.default_rng(1)
        self.temporary = self.folder / "tmp"
        pairs = {"user": "u", "item": "i"}.items(), clustered_interactions(60, 80, 3, rng)
        self.raw = pd.DataFrame({key: [f"{k}{n}" for n in ids] for (key, k), ids in zip(*pairs)})
        self.titles = self.raw[["item"]].drop_duplicates().assign(title="Film")
        self.renew()
        self.sound(PREPARE.replace("own", "tiny").replace("{results}", str(base / "data")))
        self.renew()
        began = time.monotonic()
        self.sound(SMALL)
        self.seconds, self.result = time.monotonic() - began, self.read_result()
        next(self.folder.glob("results/distill-*")).rename(base / "run")

    def sound(self, command):
        """A command that must succeed, once it has ended."""
        done = Attack(self, command).end()
        assert done.code == 0, done.errors
        return done

    def renew(self):
        """Empties the folder of an attack, but for copies of the run, the data set and the raw table."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        self.places = {name: self.folder / name for name in ("results", "data", "out")}
        self.places["run"] = self.folder / "run"
        for name in ("data", "run"):
            if (self.base / name).exists():
                shutil.copytree(self.base / name, self.folder / name)
        self.write_raw(".csv", ".csv")

    def write_raw(self, *endings):
        for (name, table), ending in zip((("raw", self.raw), ("titles", self.titles)), endings):
            self.places[name] = self.folder / f"{name}{ending}"
            write_table(self.places[name], table)

    def read_result(self):
        """What the small run has to end with, to the bit."""
        [path] = self.folder.glob("results/distill-*/result.json")
        with np.load(path.parent / "distilled.npz") as file:
            arrays = {name: file[name].tobytes() for name in file.files if name != "settings"}
        result = json.loads(path.read_text())
        return arrays, result["val"], result["test"]

    def output(self, attack):
        """What a command has printed and written."""
        return attack.out, {path: path.read_bytes() for path in self.places["out"].glob("*.*")}

    def again(self):
        """The small run, undisturbed, which must end as ever."""
        done = Attack(self, SMALL).end()
        if done.code or self.read_result() != self.result:
            done.faults.append(("difference", f"the run ends otherwise: {done.code} {done.errors[-300:]}"))
        return done


def settings(lab, rng):
    """Random keys and values on the command line of any script."""
    command = rng.choice([*OPEN])
    keys, own = [*takes.get(command.partition(".")[0], hyper_params), "config"], OPEN[command].split()
    words = []
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(rng.choice([keys, own or keys]))
        value = "".join(rng.choices(VALUES, k=rng.choice([1, 1, 2])))
        words.append(rng.choice([value, f"--{key}", *5 * [f"--{key}={value}"]]))
    yield Attack(lab, command, *words, *["--train_steps=3"] * command.startswith(("distill", "stream"))).end()


def make_huge(path):
    with open(path, "wb") as file:
        file.truncate(2**27)


def damage(path, rng):
    """Damages a file in one of many ways, or puts something else in its place; its name."""
    content = path.read_bytes()
    spot, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
    word = rng.choice([*re.finditer(rb'[\d.]+|"[^"]*"|\w+', content)])
    value = rng.choice(VALUES).encode(errors="surrogateescape")
    damaged = [
        content[:spot] + bytes([content[spot] ^ bit]) + content[spot + 1 :],
        content[:spot],
        rng.choice([b"", 100 * b"[", 100_000 * b'{"a":', content + content, content + b"\0"]),
        content[: word.start()] + value + content[word.end() :],
    ]
    if path.suffix == ".npz":  # whole, but with other numbers
        with np.load(path) as file:
            arrays = dict(file)
        name, other = rng.choice([*arrays]), io.BytesIO()
        np.savez(other, **{**arrays, name: np.roll(arrays[name], 1)})
        damaged.append(other.getvalue())
    path.unlink()
    if rng.random() < 0.9:
        path.write_bytes(rng.choice(damaged))
    else:
        rng.choice([Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), make_huge])(path)
    return path.name


def files(lab, rng):
    """A damaged file, which every script that reads it names, or reads as it was; or a damaged raw table."""
    command = rng.choice([*OF_RUN, OF_DATA, PREPARE])
    if command not in lab.outputs:
        lab.outputs[command] = lab.output(lab.sound(command))
        lab.renew()
    is_sure = False
    if command == PREPARE:
        lab.write_raw(*rng.choices([".csv", ".csv.gz", ".parquet", ".jsonl", ".zip"], k=2))
        name = damage(lab.places[rng.choice(["raw", "titles"])], rng)
    elif command in OF_RUN and rng.random() < 0.7:
        run, is_sure = lab.places["run"], rng.random() < 0.7
        if is_sure and rng.random() < 0.1:
            (run / (name := rng.choice(FILES))).unlink()
        elif is_sure:
            name = damage(run / rng.choice(FILES), rng)
        else:
            name = damage(without_sums(run) / rng.choice(FILES[:-1]), rng)
    else:
        name = damage(lab.places["data"] / "tiny" / rng.choice(DATA), rng)
        is_sure = name in DATA[:2] and command in OF_RUN  # which knows the data by their fingerprint
    done = Attack(lab, command).end()
    is_named = done.code or name in done.out + done.errors
    if is_sure and not is_named and lab.output(done) != lab.outputs[command]:
        done.faults.append(("difference", f"{name} is damaged, and the output another"))
    yield done


def names(lab, rng):
    """A hostile name of a data set, a run, a folder, a study or a file, and hostile titles."""
    lab.places["name"] = name = "".join(rng.choices(NAMES, k=rng.choice([1, 1, 2, 3])))
    items, results = lab.folder / "data" / "tiny" / "items.csv", lab.places["results"]
    titles = [name.encode(errors="replace").decode() for name in rng.choices(NAMES, k=len(lab.titles))]
    write_table(items, pd.read_csv(items, dtype=str).assign(title=titles))
    results.mkdir()
    command = rng.choice(NAMED)
    if "/" not in name and name not in ("", ".", "..") and len(os.fsencode(name)) < 240:
        shutil.copytree(lab.folder / "data" / "tiny", lab.folder / "data" / name)
        if command.startswith("prep.sh"):
            write_table(results / name, lab.raw)
        else:
            shutil.copytree(lab.places["run"], results / name)
    yield Attack(lab, command).end()


def signals(lab, rng):
    """A run of distill.py that is stopped at random moments, and then called again."""
    for _ in range(rng.choice([1, 1, 2])):
        stopped = Attack(lab, SMALL)
        time.sleep(rng.uniform(0, lab.seconds))
        stopped.stop(rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]))
        if stopped.end().code not in (0, 128 + stopped.sent, -stopped.sent):
            stopped.faults.append(("exit code", f"{stopped.code} after signal {stopped.sent}"))
        yield stopped
    yield lab.again()


def disks(lab, rng):
    """A full disk, or an output that takes nothing; and then the same run of distill.py without."""
    command = rng.choice([SMALL, SMALL, PREPARE, *OF_RUN])
    if rng.random() < 0.3:
        with open("/dev/full", "wb") as full:
            yield Attack(lab, command, *rng.choice([[], ["--help"]]), stdout=full).end()
    else:
        yield Attack(lab, command, largest_file=int(10 ** rng.uniform(0, 5))).end()
    if command == SMALL:
        yield lab.again()


def twins(lab, rng):
    """The same command twice at once: each does its work, or says that the other does (exit code 75)."""
    command = rng.choice([SMALL, SMALL, PREPARE, OF_DATA, *OF_RUN])
    first = Attack(lab, command)
    time.sleep(rng.choice([0, 0, 0.1, 1]))
    pair = [first, Attack(lab, command)]
    for attack in pair:
        if attack.end().code not in (0, 75):
            attack.faults.append(("exit code", f"{attack.code} of one of two"))
    # What lies there while one writes is not left behind.
    first.faults = [fault for fault in first.faults if fault[0] != "left behind"]
    yield from pair
    if command == SMALL:
        yield lab.again()


KINDS = {settings: 8, files: 7, names: 5, signals: 1, disks: 2, twins: 1}  # how often, of 24


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--attacks", type=int, default=200)
    parser.add_argument("--kinds", default=",".join(kind.__name__ for kind in KINDS))
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if kind.__name__ in options.kinds.split(",")]
    chosen = random.Random(options.seed).choices(kinds, [KINDS[kind] for kind in kinds], k=options.attacks)
    print(f"--seed={options.seed} --attacks={options.attacks} --kinds={options.kinds}", flush=True)
    for path in [*ROOT.glob("*.py"), ROOT / "prep" / "preprocess.py"]:  # which the forks have then
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    counts, failures = defaultdict(Counter), 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        lab = Lab(Path(base))
        for number, kind in enumerate(chosen):
            lab.renew()
            counts[kind].update(attacks=1, seconds=-time.monotonic())
            for attack in kind(lab, random.Random(f"{options.seed} {number}")):
                counts[kind].update({"commands", *(fault for fault, _ in attack.faults)})
                for fault, what in attack.faults:
                    print(f"{number} {kind.__name__}, {fault}: {ascii(what)}\n    {attack}", flush=True)
                    failures += 1
            counts[kind].update(seconds=time.monotonic())
    for kind, count in counts.items():
        print(f"{kind.__name__:>9}: {', '.join(f'{number:.0f} {what}' for what, number in count.items())}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
