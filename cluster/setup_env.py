"""Set up `.venv`: the tested versions, with what is compiled at a first use built. `make` calls it first.

Standard library only, and no syntax newer than Python 3.6, so that a Python that is too old gets far enough
to be told so. What is up to date is skipped by a stamp; a broken or interrupted set-up is mended by the same
command.

    checks (python, venv, headers, g++, disk) -> venv -> pip -> torch -> the rest -> operator, kernels
    -> stamp
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import time

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "setup.json")
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Measured: an environment with the CPU build takes 1.9 GB, and pip needs room for the packed files beside it.
# The CUDA figure is what its packages say, not measured here.
NEED_GB = {"cpu": 4, "cuda": 14, "repair": 1}


class SetupError(Exception):
    """The set-up cannot go on; the text says what is missing and what to type."""


def main(argv: "list[str]") -> int:
    """Make the environment current; 0 done, 1 failed, 2 something is missing on this machine."""
    parser = argparse.ArgumentParser(prog="python -m cluster.setup_env", description=__doc__.splitlines()[0])
    parser.add_argument("--extras", default="dev", help="extras of pyproject.toml, by comma (default: dev)")
    parser.add_argument(
        "--torch-index", default="", metavar="URL", help="package index that torch comes from"
    )
    parser.add_argument(
        "--python-chosen",
        action="store_true",
        help="this Python was asked for: remake an environment that has another one",
    )
    options = parser.parse_args(argv)
    try:
        check_python()
        set_up(options.extras.split(","), options.torch_index, options.python_chosen)
    except SetupError as error:
        print("setup: " + str(error).replace("\n", "\n       "), file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        say("stopped: `{}` failed (see above).".format(" ".join(map(str, error.cmd[1:5])) + " ..."))
        say("Mend that (network? package index? disk?) and run the same command: it goes on from here.")
        return 1
    except KeyboardInterrupt:
        say("stopped by Ctrl-C; the same command goes on from here.")
        return 130
    return 0


def check_python() -> None:
    """Raise SetupError unless the running Python is one that is tested."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise SetupError(
            "Python {}.{} to {}.{} is needed; {} is {}.{}.\n"
            "Install one (Debian: apt install python3 python3-venv python3-dev) or name it: "
            "make PYTHON=/path/to/python3.11".format(
                *OLDEST + NEWEST + (sys.executable or "this one",) + sys.version_info[:2]
            )
        )


def set_up(extras: "list[str]", torch_index: str, python_chosen: bool) -> None:
    """Bring `.venv` to what pyproject.toml and constraints.txt say."""
    import fcntl

    if is_current(extras, torch_index, python_chosen):
        return
    with open(os.path.join(ROOT, ".setup.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another set-up of this folder is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_current(extras, torch_index, python_chosen):
            install(extras, torch_index, python_chosen)


def is_current(extras: "list[str]", torch_index: str, python_chosen: bool) -> bool:
    """Whether the stamp says that a set-up for the same requirements has been finished."""
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return False
    return (
        os.path.exists(PYTHON)
        and stamp["requirements"] == requirements_hash()
        and set(extras) <= set(stamp["extras"])
        and torch_index in ("", stamp["torch_index"])
        and (not python_chosen or stamp["python"] == this_python())
    )


def install(extras: "list[str]", torch_index: str, python_chosen: bool) -> None:
    """All steps, each said before it starts; the stamp is written last."""
    started = time.time()
    before = read_json(STAMP)
    extras = sorted(set(extras) | set(before.get("extras", [])))
    if os.path.exists(STAMP):
        os.remove(STAMP)
    usable = venv_python() if os.path.exists(VENV) else ""
    keep = usable and (usable == this_python() or not python_chosen) and supported(usable)
    check_machine(new=not keep)
    if keep:
        say(f"environment .venv (Python {usable}) is there; bringing it up to date")
        drop_damaged()
    else:
        say(f"making the environment .venv with Python {this_python()}")
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", VENV])
    version = pinned("torch")
    install_pip()
    install_torch(version, torch_index, before.get("torch_index", ""))
    say("installing the rest (DeepSpeed is built from source)")
    pip("install", "-c", CONSTRAINTS, "--build-constraint", CONSTRAINTS, *requirements(extras))
    build_operator()
    build_kernels()
    stamp = {
        "requirements": requirements_hash(),
        "extras": extras,
        "torch_index": torch_index or before.get("torch_index", ""),
        "python": venv_python(),
    }
    with open(STAMP + ".tmp", "w") as file:
        json.dump(stamp, file)
    os.rename(STAMP + ".tmp", STAMP)
    say(f"ready in {time.time() - started:.0f} s")


def check_machine(new: bool) -> None:
    """Raise one SetupError with everything that this machine lacks."""
    missing, packages = [], []
    if new:
        try:
            import ensurepip
            import venv
        except ImportError:
            missing.append(f"the venv module of {sys.executable}")
            packages.append(f"python{this_python()}-venv")
        else:
            del ensurepip, venv
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        missing.append(f"Python.h for {sys.executable} (DeepSpeed's operator is built against it)")
        packages.append(f"python{this_python()}-dev")
    compiler = os.environ.get("CXX", "c++")  # as torch chooses
    if not shutil.which(compiler):
        missing.append(f"a C++ compiler, {compiler} (it builds DeepSpeed's operator)")
        packages.append("g++")
    if missing:
        raise SetupError(
            "missing on this machine: {}.\nDebian: sudo apt install {}".format(
                "; ".join(missing), " ".join(packages)
            )
        )
    check_disk("cpu" if new else "repair")
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        say(f"note: tested on Linux x86-64 only; this is {sysconfig.get_platform()}")


def check_disk(kind: str) -> None:
    """Raise SetupError when the folder's disk has less room than an environment of this kind needs."""
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < NEED_GB[kind]:
        raise SetupError(
            f"{free_gb:.1f} GB are free under {ROOT}, and the environment needs about {NEED_GB[kind]} GB."
        )


def install_pip() -> None:
    """The tested pip and setuptools; pip itself is put back where an interrupted run broke it."""
    no = subprocess.DEVNULL
    if subprocess.call([PYTHON, "-m", "pip", "--version"], env=pip_env(), stdout=no, stderr=no):
        for rest in [*site_packages().glob("pip"), *site_packages().glob("pip-*.dist-info")]:
            shutil.rmtree(str(rest))
        subprocess.check_call([PYTHON, "-m", "ensurepip", "--upgrade", "--default-pip"], env=pip_env())
    say("pip " + pinned("pip"))
    pip("install", "--quiet", "-c", CONSTRAINTS, "pip", "setuptools")


def install_torch(version: str, index: str, index_before: str) -> None:
    """torch alone, so that its index is chosen apart; what would arrive is said before the download."""
    where = ["--index-url", index] if index else []
    installed = installed_version("torch")
    if index and index != index_before and installed:
        say(f"torch {installed} is replaced by the build of {index}")
        pip("uninstall", "--yes", "torch")
        installed = ""
    if installed.split("+")[0] != version:
        warn_of_cuda(version, where)
    say("torch {}{}".format(version, " from " + index if index else ""))
    pip("install", "-c", CONSTRAINTS, *where, "torch==" + version)


def warn_of_cuda(version: str, where: "list[str]") -> None:
    """Say loudly when gigabytes of CUDA packages would come to a machine without a GPU. It is a warning: the
    CUDA build works without one."""
    say("looking up which build of torch this package index has")
    report = json.loads(
        subprocess.check_output(
            [
                PYTHON,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--dry-run",
                "--report",
                "-",
                "-c",
                CONSTRAINTS,
                *where,
                "torch==" + version,
            ],
            env=pip_env(),
            stderr=subprocess.DEVNULL,
        )
    )
    items = report["install"]
    cuda = [i for i in items if i["metadata"]["name"].lower().startswith(("nvidia-", "cuda-"))]
    if not cuda:
        say("it is a build without CUDA")
        return
    check_disk("cuda")
    if os.path.exists("/dev/nvidia0") or shutil.which("nvidia-smi"):
        say(f"it is the CUDA build ({size_of(items)} to download)")
        return
    line = "*" * 78
    print(line, flush=True)
    say(f"torch {version} from this package index is the CUDA build: {len(items)} packages,")
    say(f"{size_of(items)} to download, and this machine shows no GPU.")
    say("For the small CPU build, stop here (Ctrl-C) and run the same command with")
    say(f"    make TORCH_INDEX={CPU_INDEX} ...")
    print(line, flush=True)
    if sys.stdin.isatty():
        say("going on with the CUDA build in 10 s")
        time.sleep(10)


def size_of(items: "list[dict]") -> str:
    """Download size of the items of a pip report, asked of their servers; "several GB" if one is silent."""
    import urllib.request
    from concurrent.futures import ThreadPoolExecutor

    def size(item: dict) -> int:
        url = item["download_info"]["url"]
        if url.startswith("file://"):
            return 0  # already on this machine
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.headers["Content-Length"])

    try:
        with ThreadPoolExecutor(8) as pool:
            return f"{sum(pool.map(size, items)) / 1e9:.1f} GB"
    except (OSError, ValueError, TypeError):
        return "several GB"


def build_operator() -> None:
    """What DeepSpeed would otherwise compile silently at the first training step."""
    for folder, _, files in os.walk(os.path.join(VENV, "torch_extensions")):
        if "lock" in files:  # of a build that was killed: torch would wait for it without end
            os.remove(os.path.join(folder, "lock"))
    subprocess.check_call([PYTHON, "-m", "llm.train.build_ops"], cwd=ROOT)


def build_kernels() -> None:
    """What the first data job would otherwise wait for; the cache of each lies beside its file."""
    say("compiling the kernels over text (some seconds the first time)")
    subprocess.check_call([PYTHON, "-m", "data_jobs.build_kernels"], cwd=ROOT)


def drop_damaged() -> None:
    """Remove each installed package whose files are not all there, so that pip installs it again."""
    from importlib.metadata import PathDistribution

    for left_over in site_packages().glob("~*"):  # pip's own, from an interrupted uninstall
        shutil.rmtree(str(left_over), ignore_errors=True)
    for folder in site_packages().glob("*.dist-info"):
        files = [
            (str(folder.parent / file), file.size) for file in PathDistribution(folder).files or []
        ]  # pip writes METADATA among the last files and RECORD last
        named = (folder / "METADATA").exists() and (folder / "RECORD").exists()
        if not named or not all(is_whole(path, size) for path, size in files):
            say(f"{folder.name[: -len('.dist-info')]} is damaged; installing it again")
            for path, _ in files:
                if os.path.exists(path):
                    os.remove(path)
            shutil.rmtree(str(folder), ignore_errors=True)


def site_packages() -> "pathlib.Path":
    """Where the environment's packages are."""
    return pathlib.Path(VENV, "lib", "python" + venv_python(), "site-packages")


def is_whole(path: str, size: "int | None") -> bool:
    """Whether a file is there with its recorded size (compiled files have none recorded)."""
    try:
        return size is None or os.stat(path).st_size == size
    except OSError:
        return False


def pip(*words: str) -> None:
    """Run the environment's pip with its own lines shown."""
    temporary = os.path.join(VENV, "tmp")  # /tmp may be a small disk in memory
    os.makedirs(temporary, exist_ok=True)
    try:
        subprocess.check_call([PYTHON, "-m", "pip", *list(words)], env=dict(pip_env(), TMPDIR=temporary))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def pip_env() -> "dict[str, str]":
    """This environment without what would let pip see or use another place than `.venv`."""
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX")
    }
    return dict(env, PIP_USER="0", PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1")


def project_table() -> dict:
    """The table [project] of pyproject.toml."""
    import tomllib

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return dict(tomllib.load(file)["project"])


def requirements(extras: "list[str]") -> "list[str]":
    """The requirement lines of pyproject.toml: the core and the extras named."""
    project = project_table()
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return lines


def requirements_hash() -> str:
    """Changes whenever pyproject.toml asks for something else or constraints.txt pins it otherwise."""
    project = project_table()
    digest = hashlib.sha256(json.dumps([project["dependencies"], project["optional-dependencies"]]).encode())
    with open(CONSTRAINTS, "rb") as file:
        digest.update(file.read())
    return digest.hexdigest()


def pinned(name: str) -> str:
    """The version of a package in constraints.txt."""
    with open(CONSTRAINTS) as file:
        return next(line.split("==")[1].strip() for line in file if line.startswith(name + "=="))


def installed_version(name: str) -> str:
    """The version of a package in the environment, or an empty text."""
    code = "import importlib.metadata as m\ntry: print(m.version('{}'))\nexcept m.PackageNotFoundError: pass"
    return subprocess.check_output([PYTHON, "-c", code.format(name)], env=pip_env()).decode().strip()


def venv_python() -> str:
    """`3.11` for a working environment with that Python; empty where it does not work."""
    code = "import sys; print('%d.%d' % sys.version_info[:2] if sys.prefix != sys.base_prefix else '')"
    try:
        return subprocess.check_output([PYTHON, "-c", code], stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def supported(version: str) -> bool:
    """Whether `3.11` is between the oldest and the newest that are tested."""
    major, minor = version.split(".")
    return OLDEST <= (int(major), int(minor)) <= NEWEST


def this_python() -> str:
    """The running Python as `3.11`."""
    return "{}.{}".format(*sys.version_info[:2])


def read_json(path: str) -> dict:
    """A JSON file, or an empty dict where there is none that can be read."""
    try:
        with open(path) as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        return {}


def say(text: str) -> None:
    """One line of progress."""
    print("setup: " + text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
