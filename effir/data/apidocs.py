"""The embedded collection, API search: queries about Python packages, and the objects that answer them.

Made of documentation that pinned wheels carry: no download beyond a package index, no licence beyond BSD, MIT, Apache.
A document is a function, class or method: qualified name, signature, docstring **without its summary sentence**.
A query is such a summary sentence; its own document has grade 2, the neighbours under "See Also" grade 1.
Whole packages are held out. The small parts are for a pipeline of a minute: their metrics only show that it runs. The
large part has 2.8 times the queries of ``train``, for trainings that would read those many times. Two of its queries
are also in the evaluation, one in dev and one in test, as in ``train``.

JAX stays out of training on purpose: it re-implements, and names, half of what the test part documents.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from effir.data.apisource import ApiEntry, read_package
from effir.data.beir import Collection, Document, open_collection, write_collection
from effir.data.docstrings import is_query
from effir.data.sources import fetch
from effir.files import text_digest, write_json, writing

Part = Literal["train", "large-train", "dev", "test", "small-train", "small-dev"]
OWN, NEIGHBOUR = 2, 1  # grades
TEXT_LENGTH = 2000  # characters of a document's text: about 500 tokens
TEXT_WORDS = 10  # the fewest words that a docstring must have beyond its summary


@dataclass(frozen=True)
class Package:
    """A pinned wheel whose importable package has the distribution's name."""

    name: str
    version: str
    licence: str
    size: int  # bytes of the wheel
    sha256: str

    @property
    def source(self) -> str:
        """The source that `sources.fetch` takes."""
        return f"wheel:{self.name}=={self.version}#sha256={self.sha256}"


# Part, name, version, licence, bytes, SHA-256: 58.1 MB in all, and 60.9 MB that only the large part reads beside train.
# A compiled package is read from its wheel for CPython 3.11 on 64-bit Linux, on whatever machine.
PINS = """
train sympy 1.14.0 BSD-3-Clause 6_299_353 e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5
train twisted 26.10.0 MIT 3_251_703 3732f42af218925a0fe78d6668db55853f7fb532245a89a2669babe7d3000fa8
train pyvista 0.49.1 MIT 2_734_000 e4bd78c829051207e885281c45d03280dcde25445e1885c0824518ea7849b1c8
train keras 3.15.1 Apache-2.0 2_398_595 836460e480930acbd19bb7a17e62f9ecad40e8a9af9a651fc8d0586a96d27e20
train nltk 3.10.4 Apache-2.0 1_722_994 769ba5413f265b7d3e87cd163cc28efa01e29eeef8bb6080bc907949d9fcfb51
train trimesh 5.2.0 MIT 751_459 04db2c7ec62afdd7763fb04c82bb5f257ddd984993a19ee83697f475fc58fd29
train pymc 5.28.5 Apache-2.0 562_936 29f44aa3edd727b29eb0a555eec0d9def4775a5d5c849eee31239384a5feaec2
dev xarray 2026.9.0 Apache-2.0 1_445_445 fe349fa871628b1a0a5217af3fe1283a2862d5485156e6eda354fffb81c3bb7c
dev dask 2026.8.0 BSD-3-Clause 1_492_182 ccc0c83a189b0398602435189771d28dad7b5773b6089bb8dce14ae732dd782c
test scipy 1.17.1 BSD-3-Clause 35_349_300 43af8d1f3bea642559019edfe64e9b11192a8978efbd1539d7bc2aaa23d92de4
test networkx 3.6.1 BSD-3-Clause 2_068_504 d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762
large-train qiskit 2.6.2 Apache-2.0 9_513_711 e8578003e39facf72289fafae1542e38646e5cae7c93665f004046efa5797669
large-train django 5.2.19 BSD-3-Clause 8_319_631 5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00
large-train sktime 1.2.0 BSD-3-Clause 8_201_107 dbffc6731d2d683b668dceb5e2bbc5804bebc8446b4c580803a281684d90e4ae
large-train diffusers 0.42.1 Apache-2.0 6_355_908 9154faa704ce00e0b77f568e0d64786064368528aab5fc14eeea92f87d788014
large-train pennylane 0.45.1 Apache-2.0 5_414_360 b8cc7f590c43281b6e35b3a35707e9583c6b7babeb31dcf6f1cbde32a754ab93
large-train sqlalchemy 2.1.9 MIT 4_679_570 3a24b459e52b3ac138f6a05e99a4bd0589443a1ae18041a59c1cfdee12134a2b
large-train nibabel 5.4.2 MIT 3_300_985 553482c5f1e1034fc312edf6fb7f32236c0056439845d1c29293b7e8c98d4854
large-train pydicom 3.0.2 MIT 2_376_822 abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b
large-train stanza 1.15.0 Apache-2.0 2_041_107 1da8a072de5ff82a9776016d87e1c09fe08b35336e5f8071b79dc324aece0c7a
large-train kornia 0.9.0 Apache-2.0 1_940_302 7a1632fe004a305c94f2b979fc6ab4df26e01f925e74bdb9f8b8a03a1229caaf
large-train monai 1.6.1 Apache-2.0 1_677_458 dbd3b1dd309e752e0477ed73fde03b92f80ac74bfb8a8c4260f018b5d6ab2b0b
large-train torch_geometric 2.8.1 MIT 1_325_471 b628de243c0893f3435b6eca9a7bbc07f3219293ed27c974b8929aaae42e65d0
large-train deepchem 2.8.0 MIT 1_026_290 042c7639770e69b127f3df5e5bdf139893caa1706d512893d78728fd0a2de8b0
large-train gluonts 0.17.0 Apache-2.0 864_016 811baf619b1002daa82afabc4911ded217b369a4dcbbbbf0e5d3f7876650bcd3
large-train lightning 2.6.6 Apache-2.0 849_265 2bcbd6ee840071cd076c7dc9953d7ac1040df92f1c5fa76583aae644f037ab85
large-train pymatgen 2026.10.24 MIT 829_702 bd341f2e0550ec38358de2c95a65cabd9f1efa433df48ed5b615cc2d0115d827
large-train tornado 6.6.1 Apache-2.0 534_470 1b6ff57cc69b339f8feb9e7b567b0e0eacb16bfaf234159496623ef7a67ba640
large-train pydantic 2.14.4 MIT 494_865 653a2ad9f6d8858529c77c72717d0ea991d6c6837fe683246b2f4b2bbfc3fadc
large-train metpy 1.7.1 BSD-3-Clause 424_395 b184a1786a730f7926ec5fa58618cd0935a21f8088a13b268dd7267f9e104efc
large-train accelerate 1.15.0 Apache-2.0 394_295 97eacca0b73e45cb867dbf8c5d5d4dc32219544300e0c8992c7334dc2ef33cec
large-train albumentations 2.0.8 MIT 369_423 c4c4259aaf04a7386ad85c7fdcb73c6c7146ca3057446b745cc035805acb1017
small-train trimesh 5.2.0 MIT 751_459 04db2c7ec62afdd7763fb04c82bb5f257ddd984993a19ee83697f475fc58fd29
small-dev dask 2026.8.0 BSD-3-Clause 1_492_182 ccc0c83a189b0398602435189771d28dad7b5773b6089bb8dce14ae732dd782c
"""
PACKAGES: dict[Part, list[Package]] = {part: [] for part in get_args(Part)}
for part, name, version, licence, size, sha256 in map(str.split, PINS.strip().splitlines()):
    PACKAGES[cast("Part", part)].append(Package(name, version, licence, int(size), sha256))
PACKAGES["large-train"] = PACKAGES["train"] + PACKAGES["large-train"]


# How many documents and queries of a part are kept; None and a part that is not named keep everything.
SIZES: dict[Part, tuple[int | None, int | None]] = {"test": (3000, 300), "small-dev": (300, 100)}


class ApiQueries(NamedTuple):
    """Query id to text, and query id to document id to grade."""

    texts: dict[str, str]
    qrels: dict[str, dict[str, int]]


def install_apidocs(part: Part, into: Path, cache: Path) -> Collection:
    """Write one part in BEIR layout under ``into``, with ``SOURCES.json``; its only split is train, dev or test.

    The bytes are equal on every machine and Python. EffirError if a wheel cannot be fetched, or has another hash.
    """
    entries: dict[str, ApiEntry] = {}
    texts, qrels = ApiQueries({}, {})
    with ThreadPoolExecutor(4) as threads:  # a download waits for the network
        wheels = list(threads.map(lambda package: fetch(package.source, cache), PACKAGES[part]))
    for package, wheel in zip(PACKAGES[part], wheels, strict=True):
        found = documented(read_package(wheel, package.name))
        entries |= found
        asked = package_queries(found)
        texts, qrels = texts | asked.texts, qrels | asked.qrels
    return write_part(part, entries, ApiQueries(texts, qrels), into)


def write_part(part: Part, entries: Mapping[str, ApiEntry], queries: ApiQueries, into: Path) -> Collection:
    """Choose the part's share of queries and documents and write it atomically, with its attribution."""
    most_documents, most_queries = SIZES.get(part, (None, None))
    asked = hashed_first(queries.texts, most_queries)
    qrels = {id_: queries.qrels[id_] for id_ in asked}
    judged = {document for grades in qrels.values() for document in grades}
    kept = with_filling(judged, entries, most_documents)
    split = part.rpartition("-")[2]
    with writing(into) as draft:
        texts = {id_: queries.texts[id_] for id_ in asked}
        write_collection(draft, (document_of(entries[id_]) for id_ in kept), texts, {split: qrels})
        write_json(draft / "SOURCES.json", [asdict(package) for package in PACKAGES[part]])
    return open_collection(into)


def documented(entries: Mapping[str, ApiEntry]) -> dict[str, ApiEntry]:
    """Keep the entries whose docstring has `TEXT_WORDS` words beyond its summary sentence."""
    return {name: entry for name, entry in entries.items() if len(entry.docstring.text.split()) >= TEXT_WORDS}


def document_of(entry: ApiEntry) -> Document:
    """Title: the qualified name. Text: signature and docstring, truncated to `TEXT_LENGTH` at the end of a word."""
    text = f"{entry.signature} {entry.docstring.text}"
    return Document(entry.name, entry.name, text if len(text) <= TEXT_LENGTH else text[:TEXT_LENGTH].rpartition(" ")[0])


def package_queries(entries: Mapping[str, ApiEntry]) -> ApiQueries:
    """Make queries and qrels of one package's summaries; a summary that several objects share is left out."""
    folded = {name: entry.docstring.summary.lower().rstrip(".") for name, entry in entries.items()}
    times = Counter(folded.values())
    texts, qrels = ApiQueries({}, {})
    suffixes = _suffixes(entries)
    for name, entry in entries.items():
        summary = entry.docstring.summary
        if times[folded[name]] == 1 and is_query(summary, entry.own_name):
            query = f"q:{name}"  # BEIR's evaluation drops documents whose id is the query's
            texts[query] = summary
            qrels[query] = judge(entry, entries, suffixes)
    return ApiQueries(texts, qrels)


def judge(entry: ApiEntry, entries: Mapping[str, ApiEntry], suffixes: Mapping[str, str]) -> dict[str, int]:
    """Grade an entry's own document, and the neighbours that are documents too, sorted by name."""
    neighbours = {resolve(name, entry.name, entries, suffixes) for name in entry.docstring.neighbours}
    return {entry.name: OWN} | dict.fromkeys(sorted(filter(None, neighbours - {entry.name})), NEIGHBOUR)


def resolve(name: str, near: str, entries: Mapping[str, ApiEntry], suffixes: Mapping[str, str]) -> str | None:
    """Find the document that ``name`` means in the docstring of ``near``: in its class, module, parents or package.

    >>> resolve("fft", "scipy.fft.ifft", {"scipy.fft.fft": ...}, {})
    'scipy.fft.fft'
    """
    scope = near
    while scope:
        scope = scope.rpartition(".")[0]
        candidate = f"{scope}.{name}" if scope else name
        if candidate in entries:
            return candidate
    return suffixes.get(name)


def hashed_first(ids: Iterable[str], count: int | None) -> list[str]:
    """Choose the ``count`` ids with the lowest SHA-256, sorted by id: the choice depends on nothing else."""
    return sorted(sorted(ids, key=text_digest)[:count])


def with_filling(judged: Iterable[str], documents: Iterable[str], count: int | None) -> list[str]:
    """Keep all ``judged`` ids, and fill up with others by lowest SHA-256 to ``count``, sorted."""
    kept = set(judged)
    others = sorted(set(documents) - kept, key=text_digest)
    return sorted(kept.union(others if count is None else others[: max(0, count - len(kept))]))


def _suffixes(entries: Iterable[str]) -> dict[str, str]:
    """Map each trailing part of a qualified name that only one document has to that document."""
    owners: dict[str, list[str]] = {}
    for name in entries:
        parts = name.split(".")
        for start in range(1, len(parts)):
            owners.setdefault(".".join(parts[start:]), []).append(name)
    return {suffix: names[0] for suffix, names in owners.items() if len(names) == 1}
