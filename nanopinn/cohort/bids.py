"""Names of a cohort's files and studies, and its table of participants.

Names follow BIDS where BIDS defines them; the others are defined here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nanopinn.errors import InputError
from nanopinn.io.safe_open import read_text

#: Labels of BIDS, without ``+``: they become names of folders and words of command lines.
_LABEL = re.compile(r"[0-9A-Za-z]{1,64}", re.ASCII)
_NAME = re.compile(
    r"(?P<entities>sub-[0-9A-Za-z+]+(?:_[a-z]+-[0-9A-Za-z+]+)*)_(?P<suffix>[0-9A-Za-z]+)(?P<ending>\.[A-Za-z.]+)",
    re.ASCII,
)
IMAGE_SUFFIXES = (".nii.gz", ".nii")
CURVE_TABLE_SUFFIXES = (".tsv", ".csv")
TUMOUR_LABELS = ("tumour", "tumor")


@dataclass(frozen=True)
class BidsFileName:
    """A file whose name follows the grammar of BIDS.

    Attributes:
        path: The file.
        entities: Labels by key, in order: ``{"sub": "01", "ses": "01", "run": "1"}``.
        suffix: Last part of the name, such as ``dce``.
        ending: File extension, such as ``.nii.gz``.
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str
    ending: str

    @property
    def mask_label(self) -> str:
        """Structure that a mask marks: its ``label``, or ``desc``."""
        return self.entities.get("label", self.entities.get("desc", ""))


def parse_name(path: Path) -> BidsFileName | None:
    """Split the name of a file; None if it does not follow the grammar."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    entities = dict(pair.split("-", 1) for pair in match["entities"].split("_"))
    return BidsFileName(path, entities, match["suffix"], match["ending"])


@dataclass(frozen=True)
class Role:
    """Role of a file in a fit.

    Attributes:
        input: Input of the fit that the file is, such as ``dce``.
        description: The role in words.
        suffixes: Suffixes of the name.
        endings: File extensions.
        mask_labels: Structures that a mask may mark; empty if the file is no mask.
        acq: Required label of ``acq``.
        excluded_acq: Labels of ``acq`` that give the file another role.
        distinguishing_entity: Entity that distinguishes several files of the role; ``any`` if any
            number is allowed, empty if one is.
        value_prefix: Text before the path in the value of the input.
        derived: Whether ``derivatives/`` is searched as well.
    """

    input: str
    description: str
    suffixes: tuple[str, ...]
    endings: tuple[str, ...] = IMAGE_SUFFIXES
    mask_labels: tuple[str, ...] = ()
    acq: str = ""
    excluded_acq: tuple[str, ...] = ()
    distinguishing_entity: str = ""
    value_prefix: str = ""
    derived: bool = False

    def matches(self, name: BidsFileName) -> bool:
        """Whether a file has this role."""
        if name.suffix not in self.suffixes or name.ending not in self.endings:
            return False
        if self.mask_labels:
            return name.mask_label in self.mask_labels
        acq = name.entities.get("acq", "")
        return acq == self.acq if self.acq else acq not in self.excluded_acq


#: Defined by BIDS: VFA with ``flip``, IRT1 with ``inv``, T1map, TB1map, and masks with ``label`` or
#: ``desc`` in derivatives. BIDS 1.11 has no name and no extension proposal for DCE-MRI
#: (bids-specification issue 1549) or CEST. The names of these, of pH maps, drug images and arterial
#: inputs are defined here.
ROLES = (
    Role("dce", "DCE series", ("dce", "DCE")),
    Role("cest", "Z-spectra", ("cest",), excluded_acq=("pre", "power2")),
    Role("cest", "pH map", ("pHmap",), derived=True),
    Role("cest_pre", "Z-spectra before injection", ("cest",), acq="pre"),
    Role("cest_power2", "Z-spectra at another power", ("cest",), acq="power2"),
    Role("mask", "tumour mask", ("mask",), mask_labels=TUMOUR_LABELS, derived=True),
    Role("vfa", "flip-angle set", ("VFA",), distinguishing_entity="flip"),
    Role("ir", "inversion-recovery set", ("IRT1",), distinguishing_entity="inv"),
    Role("t1", "T1 map", ("T1map",), derived=True),
    Role("b1", "B1 map", ("TB1map",)),
    Role("aif", "arterial input function", ("aif",), endings=CURVE_TABLE_SUFFIXES),
    Role(
        "aif",
        "mask of an artery",
        ("mask",),
        mask_labels=("AIF", "aif"),
        value_prefix="mask:",
        derived=True,
    ),
    Role("drug", "drug image", ("drug",), distinguishing_entity="any"),
)

#: Patterns for ``.bidsignore`` of the names that BIDS does not define.
NON_BIDS_PATTERNS = ("*_dce.*", "*_DCE.*", "*_cest.*", "*_pHmap.*", "*_drug.*", "*_aif.*")

EXPECTED_LAYOUT = "sub-<label>/[ses-<label>/]perf/sub-<label>[_ses-<label>]_dce.nii.gz"


def find_role(name: BidsFileName) -> Role | None:
    """Role of a file in a fit; None if it has none."""
    return next((r for r in ROLES if r.matches(name)), None)


@dataclass(frozen=True)
class StudyName:
    """Labels of subject, session and run."""

    sub: str
    ses: str = ""
    run: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """``("sub-01", "ses-01")``."""
        return tuple(
            f"{key}-{label}"
            for key, label in (("sub", self.sub), ("ses", self.ses), ("run", self.run))
            if label
        )

    @property
    def id(self) -> str:
        """``sub-01_ses-01``."""
        return "_".join(self.parts)

    @property
    def relative_folder(self) -> Path:
        """``sub-01/ses-01``."""
        return Path(*self.parts)


def validate_label(text: str, entity: str, file: Path) -> str:
    """Check a label that may begin with ``sub-`` or ``ses-``, and return it without.

    Labels become folders and words of command lines, so only ASCII letters and digits are allowed.

    Args:
        text: The label.
        entity: ``sub``, ``ses`` or ``run``.
        file: File or folder that holds the label, for the message.

    Raises:
        InputError: The label is empty, too long, or holds another character.
    """
    label = text.removeprefix(f"{entity}-")
    if not _LABEL.fullmatch(label):
        raise InputError(
            "a label cannot be used",
            file=file,
            field=entity,
            found=ascii(text[:80]),
            expected="1 to 64 letters and digits (ASCII)",
            remedy=f"Write it as {entity}-01, for example.",
        )
    return label


def parse_study_id(id: str) -> StudyName:
    """Split the name of a study, ``sub-01[_ses-01][_run-1]``.

    Raises:
        InputError: The text is not such a name.
    """
    pairs = [part.partition("-") for part in id.split("_")]
    keys = [key for key, _, _ in pairs]
    if (
        not all(dash for _, dash, _ in pairs)
        or keys != [k for k in ("sub", "ses", "run") if k in keys]
        or keys[0] != "sub"
    ):
        raise InputError(
            "not the name of a study",
            field="id",
            found=ascii(id[:80]),
            expected="sub-<label>[_ses-<label>][_run-<index>]",
        )
    return StudyName(
        **{key: validate_label(label, key, Path(ascii(id[:80]))) for key, _, label in pairs}
    )


#: A table of a cohort is small; a larger file is not read into memory.
MAX_TABLE_BYTES = 20_000_000
MISSING_VALUES = ("", "n/a")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a TSV or CSV file as dictionaries by column name.

    Raises:
        InputError: The file is no text or too large, has a column twice, a row of another length,
            or a control character.
    """
    if path.is_file() and path.stat().st_size > MAX_TABLE_BYTES:
        raise InputError(
            "the table is too large",
            file=path,
            found=f"{path.stat().st_size} bytes",
            expected=f"up to {MAX_TABLE_BYTES}",
        )
    text = read_text(path)
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter="," if path.suffix.lower() == ".csv" else "\t",
            strict=True,
        )
        rows = [
            [cell.strip(" ") for cell in row] for row in reader if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise InputError(
            "the table cannot be read", file=path, found=str(error), expected="one row per study"
        ) from error
    header = rows[0] if rows else []
    if not header or len(set(header)) != len(header) or "" in header:
        raise InputError(
            "the header of the table cannot be used",
            file=path,
            found=", ".join(header)[:200] or "nothing",
            expected="column names that differ",
        )
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise InputError(
                "a row has another length than the header",
                file=path,
                field=f"row {number}",
                found=len(row),
                expected=str(len(header)),
            )
        for column, cell in zip(header, row, strict=True):
            if any(ord(c) < 32 or ord(c) == 127 for c in cell):
                raise InputError(
                    "a line break or control character cannot be used",
                    file=path,
                    field=f"row {number}, {column!a}",
                    found=ascii(cell[:80]),
                    remedy="Remove the character.",
                )
    return [dict(zip(header, row, strict=True)) for row in rows[1:]]


@dataclass(frozen=True)
class Participants:
    """Further columns of a table of participants.

    Attributes:
        columns: Names of the columns.
        rows: Names and values of the columns by labels of subject and session.
    """

    columns: tuple[str, ...] = ()
    rows: Mapping[tuple[str, str], tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def columns_for(self, name: StudyName) -> tuple[tuple[str, str], ...]:
        """Columns and values of a study."""
        return self.rows.get((name.sub, name.ses), self.rows.get((name.sub, ""), ()))


def read_participants(path: Path) -> Participants:
    """Read a ``participants.tsv``; empty if the file does not exist.

    Raises:
        InputError: See :func:`read_rows`.
    """
    if not path.is_file():
        return Participants()
    table = read_rows(path)
    columns = tuple(
        k for k in (table[0] if table else ()) if k not in ("participant_id", "session_id")
    )
    rows = {
        (_entity_label(r, "participant_id", "sub-"), _entity_label(r, "session_id", "ses-")): tuple(
            (k, r[k]) for k in columns
        )
        for r in table
    }
    return Participants(columns, rows)


def _entity_label(row: Mapping[str, str], column: str, entity: str) -> str:
    cell = row.get(column, "")
    return "" if cell in MISSING_VALUES else cell.removeprefix(entity)
