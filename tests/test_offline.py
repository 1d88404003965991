"""No command uses the network, and no result names a patient, user, path or machine."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import nibabel as nib
import pytest

import nanopinn
from tests.offline.journey import HOST, USER

OFFLINE = Path(__file__).parent / "offline"
PATIENT = "MRN-4711-Doe-Jane"
TEXT = b"DOE^JANE 19700101"
ARMS = [
    "--arms",
    "free,tsl",
    "--draws",
    "1",
    "--groups",
    "1",
    "--end",
    "1",
    "--heat",
    "42:30",
    "--heating-times",
    "none",
    "--no-sensitivity",
]


@dataclass(frozen=True)
class Journey:
    """What a study's commands wrote, said and tried."""

    folder: Path
    said: str
    attempts: str
    without_network: bool


def watched(folder: Path, *command: str | Path) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run Python where asking for the network is refused and written down; what it said, and its
    attempts.
    """
    attempts = folder / "attempts.txt"
    attempts.write_text("")
    package = str(Path(nanopinn.__file__).parents[1])
    home = {
        "HOME": str(folder / USER),
        "USER": USER,
        "LOGNAME": USER,
        "MPLCONFIGDIR": matplotlib.get_cachedir(),
        "QT_QPA_PLATFORM": "offscreen",
    }
    env = (
        os.environ
        | home
        | {
            "NETWORK_ATTEMPTS": str(attempts),
            "PYTHONPATH": os.pathsep.join([str(OFFLINE), package]),
        }
    )
    cut_off = ["unshare", "-rn"] if can_be_cut_off() else []
    done = subprocess.run(
        [*cut_off, sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=env,
        timeout=550,
    )
    return done, attempts.read_text()


def can_be_cut_off() -> bool:
    """Whether a process may be given a network of its own, with nothing in it."""
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
    )


def name_the_patient(study: Path) -> None:
    """Write a name into every free text of the headers and into the sidecars."""
    for path in study.glob("*.nii.gz"):
        image = nib.load(path)
        image.get_fdata()
        for field in ("descrip", "aux_file", "intent_name", "db_name"):
            image.header[field] = TEXT[: image.header[field].dtype.itemsize]
        nib.save(image, path)
        side = path.with_name(path.name.replace(".nii.gz", ".json"))
        if side.exists():
            side.write_text(
                json.dumps(
                    json.loads(side.read_text())
                    | {"PatientName": TEXT.decode(), "StationName": TEXT.decode()}
                )
            )


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    folder = tmp_path_factory.mktemp(PATIENT)
    study = nanopinn.make_phantom(
        folder / "study",
        nanopinn.PhantomSettings(
            shape=(10, 10, 6), tumour_mm=(2.0, 2.0, 1.6), frames=20, refine=2, drug_times_h=(2.0,)
        ),
    )
    name_the_patient(study)
    schedule = folder / "bolus.toml"
    schedule.write_text(
        '[[dose]]\nformulation = "free"\nstart_h = 0\namount_mg = 90\n[imaging]\ntimes_h ='
        " [0.5]\n[run]\nend_h = 0.6\n"
    )
    scans = [
        "--dce",
        study / "dce.nii.gz",
        "--mask",
        study / "mask.nii.gz",
        "--cest",
        study / "ph.nii.gz",
        "--vfa",
        *sorted(study.glob("vfa*.gz")),
    ]
    drug = ["--drug", *sorted(study.glob("drug*.gz")), "--engine", "fv", "--preset", "fast"]
    commands = [
        ["fit", *scans, *drug, "-o", folder / "fit", "-q"],
        ["maps", *scans, "-o", folder / "maps", "-q"],
        ["simulate", "--from", folder / "fit", *ARMS, "-o", folder / "arms", "-q"],
        [
            "simulate",
            "--from",
            folder / "fit",
            "--schedule",
            schedule,
            "--refine",
            "1",
            "-o",
            folder / "one",
            "-q",
        ],
        ["report", folder / "fit"],
        ["validate", "--dce", study / "dce.nii.gz"],
        ["info"],
    ]
    (folder / "commands.json").write_text(
        json.dumps([[str(word) for word in command] for command in commands])
    )
    done, attempts = watched(folder, OFFLINE / "journey.py", folder / "commands.json")
    assert done.returncode == 0, done.stderr
    return Journey(folder, done.stdout, attempts, can_be_cut_off())


def test_network_access_is_refused_and_recorded_even_if_suppressed(tmp_path: Path) -> None:
    for call in (
        "urllib.request.urlopen('http://localhost:9')",
        "socket.socket().connect(('127.0.0.1', 9))",
        "socket.socket().bind(('', 0))",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    ):
        hidden = (
            "import contextlib, socket, urllib.request\nwith contextlib.suppress(Exception):\n   "
            f" {call}\n    print('went through')"
        )
        done, attempts = watched(tmp_path, "-c", hidden)
        assert done.returncode == 0
        assert "went through" not in done.stdout
        assert attempts.startswith(("urllib.Request", "socket.")), call
    done, attempts = watched(
        tmp_path,
        "-c",
        "import socket; a, b = socket.socketpair(); a.send(b'x'); print('went through')",
    )
    assert "went through" in done.stdout
    assert attempts == ""


def test_no_command_and_no_import_uses_the_network(journey: Journey) -> None:
    assert journey.attempts == ""


def test_every_command_works_without_a_network(journey: Journey) -> None:
    # the fit of this tiny tumour may fail its check, which is 5
    fit, *others = json.loads(journey.said.split("exit codes:")[1])
    assert fit in (0, 5)
    assert others == [0] * 6
    if not journey.without_network:
        pytest.skip(
            "this user may not make a network namespace; the commands ran with sockets refused by"
            " Python alone"
        )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes by name, unpacked where they are packed."""
    read = {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }
    return {name: gzip.decompress(b) if name.endswith(".gz") else b for name, b in read.items()}


@pytest.mark.parametrize("result", ["fit", "maps", "arms", "one"])
def test_a_result_folder_names_no_path_user_machine_or_patient(
    journey: Journey, result: str
) -> None:
    files = contents(journey.folder / result)
    assert len(files) > 10
    for name, content in files.items():
        for secret in (
            str(journey.folder),
            PATIENT,
            USER,
            HOST,
            "DOE^JANE",
            str(OFFLINE.parents[1]),
            sys.prefix,
        ):
            assert secret.encode() not in content, f"{result}/{name} holds {secret!r}"


@pytest.mark.parametrize(
    "page", ["fit/report.html", "maps/imaging.html", "arms/comparison.html", "one/simulation.html"]
)
def test_every_page_says_research_use_only(journey: Journey, page: str) -> None:
    assert (
        "Research use only. Not for diagnosis or treatment." in (journey.folder / page).read_text()
    )


def test_every_kind_of_page_says_research_use_only() -> None:
    templates = {
        p.name: p.read_text()
        for p in (OFFLINE.parents[1] / "nanopinn" / "report").glob("*.j2")
        if p.name != "page.html.j2"
    }
    assert len(templates) >= 5
    for name, text in templates.items():
        assert '<p class="small">Research use only. Not for diagnosis or treatment.' in text, name


def test_readme_and_help_say_research_use_only() -> None:
    assert "Research use only" in (OFFLINE.parents[1] / "README.md").read_text()
    from nanopinn.cli.app import app

    assert "Research use only" in str(app.info.help)
