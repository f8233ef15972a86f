"""Mutation testing of the core: which changes of its code does no test notice?

python tests/by_hand/mutate_core.py run [MODULE ...] [--every 3]   # a line of JSON each mutant in build/mutation.jsonl
python tests/by_hand/mutate_core.py report                        # scores and survivors

Needs `pip install cosmic-ray coverage` beside the development dependencies. Cosmic Ray makes the mutants; what runs
them is here, because a new interpreter for each would cost seconds: a process that has collected the module's tests
forks for every mutant, exchanges the code of the functions, and runs those tests that run the mutant's line. What is
executed when a module is imported (constants, decorators, defaults) is imported anew instead.
docs/mutation.md says what is counted, and lists what survives.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import gc
import importlib
import json
import os
import py_compile
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "mutation.jsonl"

SELECTIONS = {
    "types": ["test_types.py", "test_hostile_folders.py"],
    "images": [
        "test_images.py", "test_line_edges.py::test_what_a_decoder_takes_counts",
        "test_line_edges.py::test_a_transparent_colour_of_16_bits_is_white",
        "test_origin_edges.py::test_deep_grey_tiffs_are_what_their_tags_say",
    ],
    "views": ["test_views.py"],
    "perturbations": ["test_views.py", "test_random_perturbations.py"],
    "bank": ["test_bank.py", "test_upgrade.py", "test_hostile_folders.py"],
    "calibration": ["test_calibration.py", "test_doubts.py", "test_attribution.py", "test_hostile_folders.py"],
    "detector": ["test_detector.py", "test_doubts.py", "test_attribution.py", "test_upgrade.py"],
    "detector_folder": ["test_detector.py", "test_upgrade.py", "test_hostile_folders.py"],
    "classifiers/knn": ["test_classifiers.py", "test_index.py", "test_sklearn.py"],
    "classifiers/linear": ["test_classifiers.py", "test_sklearn.py"],
    "classifiers/ridge": ["test_classifiers.py", "test_correction.py"],
    "classifiers/svm": ["test_classifiers.py"],
    "classifiers/_linear": ["test_classifiers.py", "test_correction.py"],
    "classifiers/_correction": ["test_correction.py"],
    "classifiers/_estimator": [
        "test_classifiers.py", "test_sklearn.py", "test_input_edges.py::test_words_as_labels_are_warned_of",
    ],
}  # fmt: skip
"""The tests of each module: of these files, those that need neither the real encoder nor a process of their own."""
TOO_SLOW = (
    "in_memory_once",
    "tilt_the_decision[30",
    "tilt_the_decision[10",
    "checked_before_decoding",
    "pillows_limit",
)
REAL_ENCODER = {"clip", "default"}
LOADED = [
    "numpy", "PIL.Image", "PIL.ImageOps", "PIL.AvifImagePlugin", "PIL.TiffImagePlugin", "PIL.WebPImagePlugin",
    "pillow_heif", "scipy.stats", "scipy.linalg", "scipy.ndimage", "sklearn.linear_model", "sklearn.preprocessing",
    "sklearn.utils.validation", "sklearn.utils.estimator_checks", "onnx", "onnxruntime", "safetensors.numpy",
    "hypothesis", "pytest", "click", "rich.console", "filelock", "huggingface_hub", "faiss", "pyarrow",
]  # fmt: skip

# One change of each kind; Cosmic Ray knows ten for every arithmetic operator, which fail together.
OPERATORS = [
    "NumberReplacer", "AddNot", "RemoveDecorator", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd", "ReplaceAndWithOr", "ExceptionReplacer", "ZeroIterationForLoop", "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak", "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub",
    "ReplaceUnaryOperator_Delete_Invert", "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBinaryOperator_Mul_Div", "ReplaceBinaryOperator_Div_Mul", "ReplaceBinaryOperator_FloorDiv_Mul",
    "ReplaceBinaryOperator_Mod_Mul", "ReplaceBinaryOperator_Pow_Mul", "ReplaceBinaryOperator_BitOr_BitAnd",
    "ReplaceBinaryOperator_BitAnd_BitOr", "ReplaceBinaryOperator_LShift_RShift",
    "ReplaceBinaryOperator_RShift_LShift", "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_NotEq_Eq", "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_IsNot_Is", "ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_Lt_GtE",
    "ReplaceComparisonOperator_LtE_Lt", "ReplaceComparisonOperator_LtE_Gt", "ReplaceComparisonOperator_Gt_GtE",
    "ReplaceComparisonOperator_Gt_LtE", "ReplaceComparisonOperator_GtE_Gt", "ReplaceComparisonOperator_GtE_Lt",
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A change of a module: the n-th place of an operator."""

    module: str
    operator: str
    occurrence: int
    line: int
    column: int
    code: str


def source(root: Path, module: str) -> Path:
    return root / "src" / "univfd" / f"{module}.py"


def mutants(module: str, every: int) -> Iterator[Mutant]:
    """Every n-th mutant, by place in the file; those that do not compile or change an annotation are none."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = source(ROOT, module).read_text("utf-8")
    unseen = annotations(ast.parse(text))
    nodes = list(ast_nodes(get_ast(text)))
    places = []
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        found = [position for node in nodes for position in operator.mutation_positions(node)]
        places += [
            (*start, name, i)
            for i, (start, _) in enumerate(found)
            if start not in unseen and not _bare_star(text, start)
        ]
    made = []
    for line, column, name, i in sorted(places):
        with suppress(SyntaxError, AttributeError):  # no mutant: Cosmic Ray fails on exceptions with a dotted name
            code = mutate_code(text, get_operator(f"core/{name}")(), i)
            compile(code, module, "exec")
            made.append(Mutant(module, name, i, line, column, code))
    yield from made[::every]


def _bare_star(text: str, place: tuple[int, int]) -> bool:
    """Whether this is the `*` of a signature, which Cosmic Ray takes for a product."""
    return text.splitlines()[place[0] - 1][place[1] :].startswith("*,")


def annotations(tree: ast.AST) -> set[tuple[int, int]]:
    """Places within annotations, which are never evaluated."""
    notes = [n for node in ast.walk(tree) for n in (getattr(node, "annotation", None), getattr(node, "returns", None))]
    return {(n.lineno, c) for n in notes if n is not None for c in range(n.col_offset, n.end_col_offset or 0)}


def statement_lines(tree: ast.AST, line: int) -> range:
    """The lines of the innermost statement around a line, without the statements inside it."""
    around = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or 0)]
    if not around:
        return range(line, line + 1)
    inner = max(around, key=lambda n: (n.lineno, -(n.end_lineno or 0)))
    body = getattr(inner, "body", None)
    return range(inner.lineno, max(inner.lineno + 1, body[0].lineno) if body else (inner.end_lineno or 0) + 1)


class Mutating:
    """Plug-in of pytest: runs the tests once to see who runs which line, then every mutant in a process of its own."""

    def __init__(self, module: str, every: int) -> None:
        self.module, self.every = module, every
        self.coverage: Any = None
        self.started = 0.0
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [
            i for i in items if not REAL_ENCODER & set(i.fixturenames) and not any(s in i.nodeid for s in TOO_SLOW)
        ]

    def pytest_runtest_call(self, item: Any) -> None:
        if self.coverage:
            self.coverage.switch_context(item.nodeid)
            self.started = time.process_time()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            print(report.longreprtext, flush=True)
            os._exit(1)
        if self.coverage and report.when == "call":
            self.coverage.switch_context("")  # fixtures are everybody's
            self.seconds[report.nodeid] = time.process_time() - self.started

    def pytest_runtestloop(self, session: Any) -> bool:
        lines, seconds = self.who_runs_what(session.items)
        target = sys.modules[f"univfd.{self.module.replace('/', '.')}"]
        tree = ast.parse(source(ROOT, self.module).read_text("utf-8"))
        for mutant in mutants(self.module, self.every):
            start = time.monotonic()
            result = self.outcome(mutant, tree, target, session.items, lines, seconds)
            record = {k: getattr(mutant, k) for k in ("module", "operator", "occurrence", "line", "column")}
            record |= {"outcome": result, "every": self.every, "seconds": round(time.monotonic() - start, 2)}
            with RESULTS.open("a") as out:
                out.write(json.dumps(record) + "\n")
        return True

    def who_runs_what(self, items: list[Any]) -> tuple[dict[int, list[str]], dict[str, float]]:
        """By line the tests that run it, and the processor's seconds of each test; all must pass."""

        def measure() -> int:
            import coverage

            self.coverage = coverage.Coverage(data_file=None, include=["src/univfd/*"])
            self.coverage.start()
            run_items(items)
            self.coverage.stop()
            found = self.coverage.get_data().contexts_by_lineno(str(source(Path.cwd(), self.module)))
            Path("map.json").write_text(json.dumps([found, self.seconds]))
            return 0

        if (code := forked(measure, 1000)) != 0:
            print(Path("output").read_text()[-3000:], file=sys.__stderr__)
            raise SystemExit(f"{self.module}: the tests must pass before anything is changed; they ended with {code}")
        found, seconds = json.loads(Path("map.json").read_text())
        return {int(line): tests for line, tests in found.items()}, seconds

    def outcome(
        self, mutant: Mutant, tree: ast.AST, target: ModuleType, items: list[Any], lines: dict[int, list[str]],
        seconds: dict[str, float],
    ) -> str:  # fmt: skip
        """`killed`, `timeout`, `survived` or `not run`."""
        ran = {test for n in statement_lines(tree, mutant.line) for test in lines.get(n, ())}
        ordered = sorted(items, key=lambda i: seconds.get(i.nodeid, 0))
        own = [i for i in ordered if i.nodeid in ran]
        budget = int(20 + 10 * sum(seconds.values()))

        def patched() -> int:
            patch(target, mutant.code)
            # A line that runs at import or in a shared fixture may matter to every test.
            run_items(own + [i for i in ordered if i not in own] if "" in ran else own)
            return 0

        def imported() -> int:
            source(Path.cwd(), mutant.module).write_text(mutant.code, "utf-8")
            for name in [n for n in sys.modules if n.partition(".")[0] in {"univfd", "conftest", *TEST_MODULES}]:
                del sys.modules[name]
            return pytest.main([*QUIET, *selection(mutant.module)], plugins=[Excluding()])

        if in_a_body(tree, mutant.line, mutant.column):
            if not ran:
                return "not run"
            code = forked(patched, budget)
        else:
            whole = source(Path.cwd(), mutant.module).read_bytes()
            code = forked(imported, budget)
            source(Path.cwd(), mutant.module).write_bytes(whole)
        return "timeout" if code is None else "survived" if code == 0 else "killed"


class Excluding:
    """Plug-in of pytest: the same tests, none changed."""

    pytest_collection_modifyitems = Mutating.pytest_collection_modifyitems


def run_items(items: list[Any]) -> None:
    from _pytest.runner import runtestprotocol

    for item, after in zip(items, [*items[1:], None], strict=True):
        for report in runtestprotocol(item, nextitem=after, log=False):
            item.config.hook.pytest_runtest_logreport(report=report)


def in_a_body(tree: ast.AST, line: int, column: int) -> bool:
    """Whether a place is in the body of a function: then its code can be exchanged in a module that is imported."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return any(f.body[0].lineno <= line <= (f.end_lineno or 0) for f in functions)


def patch(module: ModuleType, code: str) -> None:
    """Give every function of an imported module the body that it has in other code."""
    fresh: dict[tuple[str, int], CodeType] = {}
    waiting = [compile(code, str(module.__file__), "exec")]
    while waiting:
        inner = [c for c in waiting.pop().co_consts if isinstance(c, CodeType)]
        fresh |= {(c.co_qualname, c.co_firstlineno): c for c in inner}
        waiting += inner
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__module__ == module.__name__:
            function.__code__ = fresh.get(
                (function.__code__.co_qualname, function.__code__.co_firstlineno), function.__code__
            )


def forked(work: Callable[[], int], seconds: int) -> int | None:
    """Exit code of `work()` in a process of its own; None where it took more of the processor's time."""
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        with Path("output").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        try:
            os._exit(int(work()))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(99)
    end = time.monotonic() + 20 * seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code == -signal.SIGXCPU else code
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


QUIET = ["-x", "-q", "-s", "-p", "no:cacheprovider"]
TEST_MODULES = {p.stem for p in (ROOT / "tests").glob("*.py")}


def selection(module: str) -> list[str]:
    return [f"tests/{f}" for f in SELECTIONS[module] if Path("tests", f.partition("::")[0]).exists()]


def run(modules: list[str], every: int) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CI": "true"}  # hypothesis: the same examples
    scratch = Path(tempfile.mkdtemp(prefix="mutation-"))
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, scratch / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", scratch)
    # By their hash: a mutant may have the size and the second of the file before it.
    compileall.compile_dir(scratch / "src", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    sys.dont_write_bytecode = True
    os.chdir(scratch)
    sys.path[:0] = [str(scratch / "src"), str(scratch / "tests")]
    os.environ["PYTHONPATH"] = str(scratch / "src")
    for name in LOADED:
        importlib.import_module(name)
    RESULTS.parent.mkdir(exist_ok=True)
    for module in modules or SELECTIONS:
        code = os.waitstatus_to_exitcode(os.waitpid(_in_a_session(module, every), 0)[1])
        if code:
            raise SystemExit(f"{module}: ended with {code}")
    shutil.rmtree(scratch)


def _in_a_session(module: str, every: int) -> int:
    child = os.fork()
    if not child:
        code = pytest.main([*QUIET, *selection(module)], plugins=[Mutating(module, every)])
        os._exit(int(code))
    return child


def report() -> None:
    latest = {}
    for line in RESULTS.read_text().splitlines():
        r = json.loads(line)
        latest[r["module"], r["operator"], r["occurrence"]] = r
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for r in latest.values():
        counts[r["module"]][r["outcome"]] += 1
        counts["all"][r["outcome"]] += 1
    for module, found in counts.items():
        n = found.total()
        killed = found["killed"] + found["timeout"]
        print(f"{module:24} {n:5} mutants {killed:5} noticed {n - killed:4} not  {killed / n:6.1%}")
    for r in sorted(latest.values(), key=lambda r: (r["module"], r["line"], r["column"])):
        if r["outcome"] in {"survived", "not run"}:
            text = source(ROOT, r["module"]).read_text("utf-8").splitlines()[r["line"] - 1].strip()
            print(f"{r['module']}:{r['line']}:{r['column']} {r['operator']} {r['occurrence']} ({r['outcome']}): {text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("modules", nargs="*", help=f"of: {', '.join(SELECTIONS)}; default: all")
    parser.add_argument("--every", type=int, default=3, help="one mutant of so many, by place in the file")
    chosen = parser.parse_args()
    run(chosen.modules, chosen.every) if chosen.command == "run" else report()
