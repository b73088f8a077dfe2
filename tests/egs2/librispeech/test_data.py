# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""local/data.sh of the LibriSpeech recipes: what it makes, and what it refuses."""

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from espnet_reuse.data.data_dir import read_scp

ROOT = Path(__file__).resolve().parents[3]
LOCAL = ROOT / "egs2/librispeech/asr1/local"
CORPUS = {
    "train-clean-100": {"19/198": 9, "19/227": 4, "127/4": 8},
    "test-other": {"367/130732": 3},
    "dev-clean": {"84/121123": 2},
}


@pytest.fixture(scope="module")
def repository(copy_repository):
    return copy_repository()


@pytest.fixture
def recipe(repository):
    """The recipe of the 100 hours without data."""
    recipe = repository.recipe_of("librispeech_100")
    shutil.rmtree(recipe / "data", ignore_errors=True)
    return recipe


@pytest.fixture(scope="module")
def whole(make_librispeech, tmp_path_factory):
    return make_librispeech(tmp_path_factory.mktemp("corpus"), CORPUS)


@pytest.fixture
def corpus(whole, tmp_path):
    """A corpus to break: its own copy."""
    return Path(shutil.copytree(whole, tmp_path / "corpus"))


@pytest.fixture
def data_sh(repository, recipe, whole):
    """A function that runs local/data.sh to the end and returns its output."""

    def data_sh(*options, parts="train-clean-100,test-other", status=0):
        chosen = ("--librispeech", whole, "--parts", parts, "--allow_partial", "true")
        command = ("local/data.sh", *chosen, *options)
        found, output = repository.run(*command, cwd=recipe)
        assert found == status, output
        return output

    return data_sh


@pytest.fixture
def data_prep(whole, tmp_path):
    """A function that runs data_prep.py alone, which is quicker, to tmp_path/data."""

    def data_prep(*options, corpus=whole, train_set="train_clean_100"):
        command = [sys.executable, LOCAL / "data_prep.py", "--train_set", train_set]
        arguments = [*options, corpus, tmp_path / "data"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True)

    return data_prep


def assert_refused(result, *messages):
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == 1 and line.startswith("data_prep.py: error: "), line
    for message in messages:
        assert message in line, line


PARTIAL = ("--parts", "train-clean-100,test-other", "--allow_partial", "true")


def files_of(data):
    return {
        path.relative_to(data): path.read_bytes()
        for path in sorted(data.rglob("*"))
        if path.is_file()
    }


# ------------------------------ what it makes ------------------------------


def test_every_directory_is_valid_and_holds_what_the_corpus_holds(
    repository, recipe, whole, data_sh
):
    parts = "train-clean-100,test-other,dev-clean"
    data_sh(parts=parts)
    data = recipe / "data"
    sizes = {d.parent.name: len(read_scp(d)) for d in data.glob("*/text")}
    assert sizes == {
        "train_clean_100": 21,
        "test_other": 3,
        "dev_clean": 2,
        "dev": 2,
    }
    for name in sizes:
        check = ("utils/validate_data_dir.sh", "--no-feats", f"data/{name}")
        status, output = repository.run(*check, cwd=recipe)
        assert status == 0, output
    assert set(read_scp(data / "train_clean_100/spk2utt")) == {"19", "127"}
    chapter = whole / "LibriSpeech/train-clean-100/127/4"
    words = read_scp(data / "train_clean_100/text")
    assert words.items() >= read_scp(chapter / "127-4.trans.txt").items()
    assert "dev-other: left out" in (data / "partial").read_text()

    before = files_of(data)
    data_sh(parts=parts)
    assert files_of(data) == before


def test_the_environment_may_name_the_corpus(repository, recipe, whole):
    status, output = repository.run(
        *("env", f"LIBRISPEECH={whole}", "local/data.sh", "--parts"),
        *("train-clean-100,test-other", "--allow_partial", "true"),
        cwd=recipe,
    )
    assert status == 0, output
    assert len(read_scp(recipe / "data/train_clean_100/text")) == 20


def test_every_twentieth_utterance_is_held_out_where_no_dev_part_is(
    data_prep, tmp_path
):
    result = data_prep(*PARTIAL)
    assert result.returncode == 0, result.stderr
    train, dev = (
        set(read_scp(tmp_path / "data" / name / "text"))
        for name in ("train_clean_100", "dev")
    )
    assert dev == {sorted(train | dev)[19]} and not train & dev
    assert (tmp_path / "data/partial").read_text().splitlines() == [
        "- test-other: 3 of 2939 utterances",
        "- train-clean-100: 21 of 28539 utterances",
        "- dev-clean: left out",
        "- dev-other: left out",
        "- dev: 1 utterances held out of the training part",
    ]


def test_what_an_earlier_call_made_of_other_parts_does_not_remain(data_prep, tmp_path):
    data = tmp_path / "data"
    more = ("--parts", "train-clean-100 dev-clean", "--allow_partial", "true")
    assert data_prep(*more).returncode == 0
    assert data_prep(*PARTIAL).returncode == 0
    folders = {d.name for d in data.iterdir() if d.is_dir()}
    assert folders == {"train_clean_100", "test_other", "dev"}


def test_all_960_hours_are_one_training_set(make_librispeech, data_prep, tmp_path):
    parts = ("train-clean-100", "train-clean-360", "train-other-500")
    make_librispeech(tmp_path, {p: {f"{i}/1": 2} for i, p in enumerate(parts, 1)})
    options = ("--parts", ",".join(parts), "--allow_partial", "true")
    result = data_prep(*options, corpus=tmp_path, train_set="train_960")
    assert result.returncode == 0, result.stderr
    utterances = set(read_scp(tmp_path / "data/train_960/text"))
    assert len(utterances) == 5  # the sixth is held out
    assert {u.split("-")[0] for u in utterances} == {"1", "2", "3"}


# ------------------------------ bad input ------------------------------


def test_a_short_part_is_named_with_what_is_missing(whole, data_prep, tmp_path):
    options = ("--parts", "train-clean-100,dev-clean,dev-other")
    (tmp_path / "c").symlink_to(whole)
    refused = data_prep(*options, corpus=tmp_path / "c")
    assert_refused(refused, "has no dev-other: choose what is there with --parts")
    (whole / "LibriSpeech/dev-other").symlink_to(whole / "LibriSpeech/dev-clean")
    try:
        refused = data_prep(*options)
    finally:
        (whole / "LibriSpeech/dev-other").unlink()
    short = "dev-clean is short of 2701 of 2703"
    assert_refused(refused, short, "--allow_partial true")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ("--parts dev-clean,dev-dirty", "--parts: no part 'dev-dirty'; choose from"),
        ("--parts dev-clean", "--parts: nothing to train on; add train-clean-100"),
        ("--parts train-clean-100", "need dev-clean dev-other, too"),
    ],
)
def test_parts_that_do_not_make_a_corpus_are_refused(data_prep, options, message):
    assert_refused(data_prep(*options.split()), message)


def test_a_folder_without_a_corpus_is_named(data_prep, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        refused = data_prep(*PARTIAL, corpus=path)
        assert_refused(refused, f"--librispeech: no corpus in '{path}'", "downloaded")


TRANS, FLAC = "19/198/19-198.trans.txt", "19/198/19-198-0003.flac"


DAMAGES = {
    "19-198.trans.txt is missing": lambda part: (part / TRANS).unlink(),
    "1 utterances have a transcript and no audio: 19-198-0003": lambda part: (
        part / FLAC
    ).unlink(),
    "1 utterances have audio and no transcript: 19-198-0099": lambda part: shutil.copy(
        part / FLAC, part / "19/198/19-198-0099.flac"
    ),
    "19-198-0003.flac cannot be read or is cut short": lambda part: os.truncate(
        part / FLAC, 9000
    ),
    "train-clean-100/reader is not a reader: its name is not an integer": (
        lambda part: (part / "reader").mkdir()
    ),
    "19/x1 is not a chapter: its name is not an integer": (
        lambda part: (part / "19/x1").mkdir()
    ),
    "not one utterance of 19-198: '26-495-0001 YES'": (
        lambda part: (part / TRANS).write_text("26-495-0001 YES\n")
    ),
    "not one utterance of 19-198: '19-198-0000 '": (
        lambda part: (part / TRANS).write_text("19-198-0000 \n")
    ),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_broken_corpus_is_refused_in_one_line(data_prep, corpus, tmp_path, message):
    DAMAGES[message](corpus / "LibriSpeech/train-clean-100")
    assert_refused(data_prep(*PARTIAL, corpus=corpus), message)
    assert not (tmp_path / "data").exists()


# ------------------------------ download ------------------------------


class Proxy(http.server.SimpleHTTPRequestHandler):
    """Serves the archive of every part for any host, as a proxy is asked for it."""

    asked = []

    def do_GET(self):
        self.asked.append(self.path)
        self.path = "/" + self.path.rpartition("/")[2]
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def proxy(make_librispeech, tmp_path, monkeypatch):
    """A server with the archive of a small dev-clean; yields the archive."""
    make_librispeech(tmp_path / "served", {"dev-clean": {"84/121123": 2}})
    archive = tmp_path / "served/dev-clean.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "served/LibriSpeech", "LibriSpeech")
    handler = functools.partial(Proxy, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        Proxy.asked.clear()
        yield archive
        server.shutdown()


def test_an_archive_with_another_checksum_is_refused_and_leaves_no_part(
    proxy, tmp_path
):
    downloads = tmp_path / "downloads"
    (downloads / "LibriSpeech/train-clean-100").mkdir(parents=True)
    result = subprocess.run(
        [sys.executable, LOCAL / "download.py", "--train_set", "train_clean_100"]
        + ["--parts", "train-clean-100,dev-clean", downloads],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("download.py: error: invalid hash value"), result.stderr
    assert Proxy.asked == ["http://www.openslr.org/resources/12/dev-clean.tar.gz"]
    assert not (downloads / "LibriSpeech/dev-clean").exists()
    assert not list(downloads.rglob("*.tar.gz"))


def test_an_interrupted_extraction_is_redone_without_a_second_download(
    proxy, tmp_path, monkeypatch
):
    from torchaudio.datasets import librispeech

    monkeypatch.syspath_prepend(LOCAL)
    import download

    url = "http://www.openslr.org/resources/12/dev-clean.tar.gz"
    checksum = hashlib.sha256(proxy.read_bytes()).hexdigest()
    monkeypatch.setitem(librispeech._CHECKSUMS, url, checksum)
    downloads = tmp_path / "downloads"

    def killed(path):
        (downloads / "partial/LibriSpeech/dev-clean/84").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(librispeech, "_extract_tar", killed)
        download.download("dev-clean", downloads)
    assert not (downloads / "LibriSpeech").exists()
    download.download("dev-clean", downloads)
    assert Proxy.asked == [url]
    assert len(list((downloads / "LibriSpeech/dev-clean").rglob("*.flac"))) == 2
    assert not list(downloads.rglob("*.tar.gz"))


def test_too_little_disk_is_said_before_a_download(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(LOCAL)
    import download

    enormous = dict.fromkeys(download.OFFICIAL, (0, 2**60))
    monkeypatch.setattr(download, "OFFICIAL", enormous)
    options = ["--train_set", "train_clean_100", str(tmp_path / "downloads")]
    monkeypatch.setattr(sys, "argv", ["download.py", *options])
    with pytest.raises(SystemExit):
        download.main()
    message = "download.py: error: no space left for downloads: about"
    assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "downloads").exists()
