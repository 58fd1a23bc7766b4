"""The house keeps its order: who may import whom, which library lives where, what is shipped and what is not told."""

import ast
import functools
import graphlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("datasets", "models", "pipelines", "flows")  # each may import those before it
SUB_ROOMS = {"curate", "cache", "train", "render", "evaluate", "export", "forget", "benchmarks"}
WEIGHTS = "models/toydance/components"
DEMO = {"flows/demo/dancers.py", "flows/demo/measure.py", "flows/ablations/world.py"}
ONLY_IN = {
    "prefect": ("flows/",),
    "ray": ("pipelines/",),
    "deepspeed": ("pipelines/",),
    "diffusers": ("models/",),
    "peft": ("models/",),
    "open_clip": ("models/",),
    "rtmlib": ("models/",),
    "timm": ("models/",),
    "dlib": ("models/",),
    "transformers": ("models/",),
    "torch": ("models/", "pipelines/", "flows/"),
    "decord": ("datasets/video",),
    "av": ("datasets/video",),
    "torchcodec": ("pipelines/common",),
}


@dataclass(frozen=True)
class Import:
    """`module` in full, imported in line `line` of `path` (from the root)."""

    path: str
    line: int
    module: str
    relative: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports_of(path: Path) -> list[Import]:
    """All imports of a file, those inside functions too; names that are modules of ours count as modules."""
    name = path.relative_to(ROOT).as_posix()
    found: list[tuple[int, str, bool]] = []
    for node in ast.walk(ast.parse(path.read_text(), name)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ["steadydancer", *Path(name).parent.parts]
            base = start[: len(start) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{module}.{alias.name}", node.level > 0) for alias in node.names]
    return [Import(name, *entry) for entry in found]


@functools.cache
def all_imports() -> list[Import]:
    return [entry for path in sources() for entry in imports_of(path)]


def tracked_files() -> list[Path]:
    """What would be published: git's files, or without git everything that .gitignore's folders do not hold."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]
    ignored = {".venv", ".git", "runs", "build", "dist", "__pycache__"}
    found = (path for path in ROOT.rglob("*") if path.is_file() and not path.name.endswith(".pyc"))
    return [path for path in found if not ignored.intersection(path.relative_to(ROOT).parts)]


def test_imports_are_seen_wherever_they_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests are worth what this reading of imports is worth."""
    path = tmp_path / "pipelines" / "cache" / "steps.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import a.b\nfrom ... import flows\nfrom ..train.loop import x\nfrom . import config\n"
        "def f():\n    from ray import data\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert [(entry.line, entry.module) for entry in imports_of(path)] == [
        (1, "a.b"),
        (2, "steadydancer.flows"),
        (3, "steadydancer.pipelines.train.loop.x"),
        (4, "steadydancer.pipelines.cache.config"),
        (6, "ray.data"),
    ]


def test_rooms_import_only_the_rooms_below() -> None:
    wrong = []
    for entry in all_imports():
        head, _, rest = entry.module.partition(".")
        target = rest.split(".")[0]
        if head != "steadydancer" or target not in ROOMS:
            continue
        if ROOMS.index(target) > ROOMS.index(entry.path.split("/")[0]):
            wrong.append(str(entry))
    assert not wrong


def test_the_jobs_meet_in_artifacts_only() -> None:
    wrong = []
    for entry in all_imports():
        room, *folders = Path(entry.path).parent.parts
        target = entry.module.split(".")[:3]
        if room != "pipelines" or target[:2] != ["steadydancer", "pipelines"] or len(target) < 3:
            continue
        if target[2] in SUB_ROOMS and folders[:1] != [target[2]]:
            wrong.append(str(entry))
    assert not wrong


def test_one_library_lives_in_one_room() -> None:
    wrong = [
        str(entry)
        for entry in all_imports()
        if (rooms := ONLY_IN.get(entry.module.split(".")[0])) and not entry.path.startswith(rooms)
    ]
    wrong += [
        str(entry) for entry in all_imports() if entry.module == "safetensors.torch" and "datasets/" in entry.path
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count: they hide a circle and do not open it."""
    graphlib.TopologicalSorter(import_graph()).prepare()


@functools.cache
def import_graph() -> dict[str, set[str]]:
    """Module → the modules of ours that it imports, inside functions too."""
    graph = {module_name(path.relative_to(ROOT)): set[str]() for path in sources()}
    for entry in all_imports():
        name, parts = module_name(Path(entry.path)), entry.module.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        graph[name] |= {next((prefix for prefix in prefixes if prefix in graph), name)} - {name}
    return graph


def folder_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """In each folder, a circle among the files and folders in it, if there is one; `__init__` files do not count."""
    packages = {name.rpartition(".")[0] for name in graph}
    inside: dict[str, dict[str, set[str]]] = {}
    for module, targets in graph.items():
        for target in targets - packages:
            if module in packages:
                continue
            ours, theirs = module.split("."), target.split(".")
            depth = next(k for k, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
            folder = inside.setdefault(".".join(ours[:depth]), {})
            folder.setdefault(ours[depth], set()).add(theirs[depth])
    found = []
    for folder, edges in sorted(inside.items()):
        try:
            graphlib.TopologicalSorter(edges).prepare()
        except graphlib.CycleError as error:
            found.append([folder, *error.args[1]])
    return found


def test_no_folders_import_each_other_in_a_circle() -> None:
    """Also where no two modules do: a folder then has no place above or below the other."""
    assert folder_circles(import_graph()) == []
    graph = {"s.a.x": {"s.b.y"}, "s.b.z": {"s.a.w"}, "s.a.w": set[str](), "s.b.y": set[str]()}
    assert [circle[0] for circle in folder_circles(graph)] == ["s"]
    assert folder_circles({**graph, "s.b.z": {"s.b.y"}}) == []


def module_name(path: Path) -> str:
    return ".".join(["steadydancer", *path.with_suffix("").parts]).removesuffix(".__init__")


def test_only_the_demo_and_its_networks_import_the_procedural_dancers() -> None:
    """Other code may read what they write, by the modules that write it."""
    wrong = []
    for entry in all_imports():
        is_its_own = entry.path.startswith(("datasets/toydance", "models/toydance"))
        if entry.module.startswith("steadydancer.datasets.toydance") and not is_its_own and entry.path not in DEMO:
            wrong.append(str(entry))
    assert not wrong


def test_the_suffix_of_keypoints_is_spelled_once() -> None:
    found = []
    for path in sources():
        tree = ast.parse(path.read_text())
        docstrings = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        found += [
            path.relative_to(ROOT).as_posix()
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node not in docstrings and "pose.safetensors" in str(node.value)
        ]
    assert found == ["datasets/sidecars.py"]


# Documented modules; what else these libraries hold may change with any release, and is used through one module.
DOCUMENTED = {
    "diffusers": {
        "diffusers",
        "diffusers.callbacks",
        "diffusers.configuration_utils",
        "diffusers.hooks",
        "diffusers.models.modeling_outputs",
        "diffusers.pipelines.pipeline_utils",
        "diffusers.utils",
        "diffusers.utils.torch_utils",
    },
    "transformers": {"transformers"},
    "accelerate": {"accelerate"},
    "peft": {"peft", "peft.utils"},
}
INTERNALS = "models/diffusers_internals.py"
# Attributes that diffusers lets subclasses override are read in the subclass.
PRIVATE_NAMES = r"\b(_hf_hook|_diffusers_hook|_keep_in_fp32_modules|_feat_map|_reset_stateful_cache|_cp_plan)\b"
SUBCLASS = "models/transformer.py"


def test_private_names_of_diffusers_are_used_through_one_module() -> None:
    """Its contract is tests/models/test_diffusers_internals.py."""
    wrong = []
    for entry in all_imports():
        module, _, name = entry.module.rpartition(".")
        if not module or entry.path == INTERNALS:
            continue
        documented = DOCUMENTED.get(entry.module.split(".")[0])
        if documented is not None and (module not in documented or name.startswith("_")):
            wrong.append(str(entry))
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        if name not in (INTERNALS, SUBCLASS):
            found = re.findall(PRIVATE_NAMES, path.read_text())
            wrong += [f"{name} uses {attribute}" for attribute in found]
    assert not wrong


# Modules that may ask whether a place is on this machine or on a store; everybody else takes what they offer.
STORAGE = {
    "datasets/storage/files.py",
    "datasets/storage/result_store.py",
    "datasets/storage/tree.py",
    "datasets/storage/locations.py",
    "datasets/local_copies.py",
    "datasets/storage/atomic.py",
    "datasets/storage/copies.py",
    "datasets/storage/lease.py",
    "datasets/storage/s3.py",
    "datasets/shards/ranges.py",
}
ASK_SOMETHING_ELSE = {
    "models/lora/export.py": "whether it is given a network in memory or a place",
}


def kinds_asked(path: Path) -> list[str]:
    """`isinstance` of a `Path` or an `ObjectPath`, and patterns of `match` for them."""
    asked = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            kinds: ast.AST = node.args[1]
        elif isinstance(node, ast.MatchClass):
            kinds = node.cls
        else:
            continue
        named = {getattr(one, "id", getattr(one, "attr", "")) for one in ast.walk(kinds)}
        if named & {"Path", "PosixPath", "ObjectPath"}:
            asked.append(f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', '')}")
    return asked


def test_whether_a_place_is_on_a_store_is_asked_in_the_storage_modules_alone() -> None:
    asked = [place for path in sources() for place in kinds_asked(path)]
    files = {place.partition(":")[0] for place in asked}
    assert not [place for place in asked if place.partition(":")[0] not in STORAGE | ASK_SOMETHING_ELSE.keys()]
    assert files >= ASK_SOMETHING_ELSE.keys(), "an exception that nobody needs any more"


def test_requests_to_a_store_are_made_by_the_storage_alone() -> None:
    """Above `datasets` not even the type of an address is known: `Location` is."""
    inside = ("s3", "requests", "lease")
    wrong = []
    for entry in all_imports():
        parts = entry.module.split(".")
        if not entry.path.startswith("datasets/") and (set(inside) & set(parts) or parts[-1] == "ObjectPath"):
            wrong.append(str(entry))
    assert not wrong


def test_between_rooms_imports_are_relative_and_infra_is_imported_by_nobody() -> None:
    ours = {"steadydancer", "datasets", "models", "pipelines", "flows", "infra", "tests"}
    wrong = [str(entry) for entry in all_imports() if not entry.relative and entry.module.split(".")[0] in ours]
    wrong += [
        str(entry) for entry in all_imports() if re.match(r"steadydancer\.(infra|tests|benchmarks)\b", entry.module)
    ]
    assert not wrong


def test_the_command_and_the_configurations_open_without_the_engines() -> None:
    """`--help` and `--print-config` answer at once because nothing heavy is imported on the way to them."""
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in sources()]
    light = [f"steadydancer.{name}" for name in names if name.endswith((".config", "flows.cli", "flows.presets"))]
    assert "steadydancer.flows.cli" in light
    code = "import json, sys; [__import__(name) for name in sys.argv[1:]]; print(json.dumps([*sys.modules]))"
    answer = subprocess.run([sys.executable, "-c", code, *light], capture_output=True, text=True, check=True)
    heavy = {"torch", "ray", "prefect", "deepspeed", "diffusers", "transformers", "pyarrow", "cv2"}
    assert not heavy.intersection(json.loads(answer.stdout))


def test_a_flow_that_follows_a_job_imports_no_network() -> None:
    """Twenty such processes on one machine would take 20 GB."""
    code = "import sys; import steadydancer.flows.reproduce; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "deepspeed"} & {*done.stdout.split()}


def test_every_folder_of_code_is_named_in_pyproject() -> None:
    """A folder that is not named imports in an editable install and is absent from the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for path in sources()}
    expected = {".".join(["steadydancer", *folder.parts]) for folder in folders} | {"steadydancer"}
    assert set(project["tool"]["setuptools"]["packages"]) == expected
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)


def test_the_wheel_holds_all_modules_and_nothing_else(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py", *ROOMS):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    # Weights are data of the package: one more of them is in the wheel, too.
    data = source / "models" / "toydance" / "components" / "stage1" / "transformer" / "test.safetensors"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(b"weights")
    weights = {path.relative_to(source).as_posix() for path in (source / WEIGHTS).rglob("*") if path.is_file()}
    out.mkdir()
    build = "import setuptools.build_meta as backend, sys; backend.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, out], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {f"steadydancer/{path.relative_to(ROOT).as_posix()}" for path in sources()}
    assert names == expected | {"steadydancer/__init__.py"} | {f"steadydancer/{name}" for name in weights}


def test_the_shipped_weights_are_at_most_40_megabytes_in_half_precision() -> None:
    files = [path for path in (ROOT / WEIGHTS).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40_000_000
    kinds = {path.suffix for path in files}
    assert kinds <= {".safetensors", ".onnx", ".json", ".jsonl"}
    for path in files:
        if path.suffix == ".safetensors":
            header = path.read_bytes()[8:]
            size = int.from_bytes(path.read_bytes()[:8], "little")
            dtypes = {entry["dtype"] for name, entry in json.loads(header[:size]).items() if name != "__metadata__"}
            assert dtypes == {"F16"}, path


def locked_packages() -> list[tuple[Requirement, str]]:
    """Each entry of the lock, with its marker, and its version."""
    lock = (ROOT / "requirements.lock").read_text()
    lines = re.findall(r"^([A-Za-z0-9].*?) \\\n(?:\s+--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", lock, re.MULTILINE)
    assert len(lines) == len(re.findall(r"^[A-Za-z0-9]", lock, re.MULTILINE))  # pinned and hashed, each of them
    return [(entry, next(iter(entry.specifier)).version) for entry in map(Requirement, lines)]


def test_the_lock_names_no_place_and_fulfils_the_project() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "file:" not in lock
    locked = locked_packages()
    assert all(str(entry.specifier) == f"=={version}" for entry, version in locked)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in sum(project["optional-dependencies"].values(), project["dependencies"])]
    for need in asked:
        versions = [v for entry, v in locked if canonicalize_name(entry.name) == canonicalize_name(need.name)]
        assert versions and all(need.specifier.contains(version) for version in versions), need


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11.0", "3.11.9", "3.12.4", "3.13.1"])
def test_the_lock_is_for_every_machine_and_python(machine: str, python: str) -> None:
    """One version of a package each, all that the project asks for, and decord only where it has wheels."""
    environment = {
        "platform_machine": machine,
        "sys_platform": "linux",
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }

    def is_for(entry: Requirement) -> bool:
        return entry.marker is None or entry.marker.evaluate(environment)

    names = [canonicalize_name(entry.name) for entry, _ in locked_packages() if is_for(entry)]
    assert len(names) == len(set(names))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in sum(project["optional-dependencies"].values(), project["dependencies"])]
    assert {canonicalize_name(need.name) for need in asked if is_for(need)} <= {*names}
    assert ("decord" in names) == (machine == "x86_64") and "av" in names


def test_nothing_published_names_a_registry_or_one_machine() -> None:
    registry = "|".join(["py" + r"pi\.org", "pythonho" + "sted", r"registry\.npm" + r"js", r"ana" + r"conda\.org"])
    machine = r"(?:^|[^A-Za-z0-9_.])/(?:" + "|".join(["work", "root", "farm", "Users"]) + r")/[A-Za-z.]"
    wrong = []
    for path in tracked_files():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue  # not text
        wrong += [
            f"{path.relative_to(ROOT)}:{number} {line.strip()[:100]}"
            for number, line in enumerate(lines, 1)
            if re.search(f"{registry}|{machine}", line)
        ]
    assert not wrong


def test_the_doors_are_where_people_look_for_them() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {"help", "setup", "demo", "test", "check", "docs", "acceptance", "lock"} <= targets
    for target in ("demo", "test", "check", "docs"):
        assert re.search(rf"^{target}: setup\b", makefile, re.MULTILINE)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert {"make check", "make test"} <= {*(ROOT / ".ci" / "run").read_text().splitlines()}
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="steadydancer")
    assert command.value == "steadydancer.flows.cli:main"
