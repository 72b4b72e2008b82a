from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.corpus.corpus import Corpus, Spoken, Turn
from hubpub.corpus.labels import LabelFiles
from hubpub.corpus.prepare import prepare
from hubpub.corpus.spec import CorpusSpec
from hubpub.corpus.transcripts import read_table
from hubpub.corpus.turns import read_rttm, read_stm, read_uem
from hubpub.errors import AudioError

Write = Callable[[str, str | bytes], LabelFiles]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file and gives it as ``s/<name>``."""

    def written(name: str, content: str | bytes) -> LabelFiles:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return LabelFiles({f"s/{name}": tmp_path / name})

    return written


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)
NAMES = st.from_regex(r"[a-z0-9ñü_]{1,8}", fullmatch=True)
TABLE = st.dictionaries(NAMES, WORDS, min_size=1, max_size=8)


@given(TABLE, st.sampled_from(["csv", "tsv", "jsonl"]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_tables_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, str], kind: str, bom: bool
) -> None:
    path = tmp_path_factory.mktemp("t") / f"x.{kind}"
    out = io.StringIO()
    if kind == "jsonl":
        out.writelines(
            json.dumps({"duration": 1, "audio_filepath": f"wavs/{k}.wav", "text": v}) + "\n" for k, v in table.items()
        )
    else:
        writer = csv.writer(out, delimiter="," if kind == "csv" else "\t")
        writer.writerow(["path", "speaker", "sentence"])
        writer.writerows([f"wavs/{k}.wav", "Ann", v] for k, v in table.items())
    path.write_bytes(out.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    read = read_table(path, f"s/x.{kind}")
    for name, text in table.items():
        assert read.text(f"src/data/wavs/{name}.flac") == " ".join(text.split())
    with pytest.raises(AudioError, match=r"^s/x\.\w+: has no row for zzzzzzzzz\.wav"):
        read.text("src/wavs/zzzzzzzzz.wav")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("x.csv", "", "s/x.csv: has no row for a.wav"),
        ("x.csv", "path,text\n", "s/x.csv: has no row for a.wav"),
        ("x.csv", "who,text\na,b\n", "s/x.csv:1: no column with files among text, who"),
        ("x.csv", "path,words\na,b\n", "s/x.csv:1: no column with texts among path, words"),
        ("x.csv", "path,text\na.wav,b,c\n", "s/x.csv:2: has 3 cells, the header has 2"),
        ("x.csv", 'path,text\na.wav,"b\n', "s/x.csv:2: is no table: unexpected end of data"),
        ("x.csv", "path,text\n,b\n", "s/x.csv:2: 'path' is missing or no text"),
        ("x.csv", "path,text\na/a.wav,b\nb/a.wav,c\n", "s/x.csv: lines 2 and 3 give different texts for a.wav"),
        ("x.csv", b"\xff\xfe", "s/x.csv: it is not UTF-8 text"),
        ("x.csv", "path,text,text\na.wav,b,c\n", "s/x.csv:1: has two columns 'text'"),
        ("x.jsonl", '{"path": "a.wav", "text": "\\ud800"}\n', "s/x.jsonl:1: 'text' holds half a character"),
        ("X.JSONL", '{"path"\n', "s/X.JSONL:1: is no JSON"),
        ("x.jsonl", '{"path": "a.wav", "text": "b"}\n{"path"\n', "s/x.jsonl:2: is no JSON"),
        ("x.jsonl", "[1]\n", "s/x.jsonl:1: is no JSON object"),
        ("x.jsonl", '{"path": "a.wav", "text": null}\n', "s/x.jsonl:1: 'text' is missing or no text"),
        ("x.jsonl", '{"path": 3, "text": "b"}\n', "s/x.jsonl:1: 'path' is missing or no text"),
        ("x.jsonl", "[" * 100_000, "s/x.jsonl:1: is no JSON"),
        ("x.lab", " \n", "s/x.lab: the transcript is empty"),
        ("x.stm", "a 1 Ann 3 2 hi", "s/x.stm:1: ends at 2 s and starts at 3 s"),
        ("x.stm", "a 1 Ann 3", "s/x.stm:1: has 4 fields, and 5 are needed: file channel speaker start end text"),
        ("x.stm", "b 1 Ann 0 1 hi", "s/x.stm: has no line for a"),
        ("x.stm", "a 1 Ann 4 6 hi", "s/x.stm: the clip 0-5 s cuts the words of 4-6 s"),
    ],
)  # fmt: skip
def test_bad_transcripts_are_told_in_one_line(write: Write, name: str, content: str | bytes, line: str) -> None:
    with pytest.raises(AudioError) as caught:
        write(name, content).text(f"s/{name}", "src/c/a.wav", "a", 0, 5)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_folders_tell_files_of_one_name_apart(write: Write) -> None:
    files = write("x.csv", "path,text\nen/1.mp3,one\nfr/1.mp3,un\n")
    assert [files.text("s/x.csv", f"src/{lang}/1.mp3", "1", 0, 1) for lang in ("en", "fr")] == ["one", "un"]


def test_paths_of_another_machine_are_matched_by_name(write: Write) -> None:
    files = write("x.jsonl", '{"audio_filepath": "/home/ann/wav/1.wav", "text": "one"}\n')
    assert files.text("s/x.jsonl", "src/data/1.wav", "1", 0, 1) == "one"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.csv", "path,text,,\r\n  \r\n,,,\r\na.wav,one,,\r\n", "one"),  # as spreadsheets leave them
        ("X.TSV", "path\ttext\na.wav\tone\n", "one"),
        ("x.jsonl", '{"audio": "C:\\\\wav\\\\a.wav", "text": "one"}\n', "one"),
        ("x.csv", "id,text\nclip 7,one\n", "one"),
        # Common Voice's quotes are quotes, at the beginning of a sentence too
        ("x.tsv", 'path\tsentence\na.mp3\t"One", he said.\n', '"One", he said.'),
        ("x.tsv", 'path\tsentence\na.mp3\t"One\nb.mp3\ttwo"\n', '"One'),
        ("x.tsv", 'path\tsentence\nb.mp3\t"\na.mp3\t"""One"" and two"\n', '"One" and two'),
        ("x.tsv", 'path\tsentence\na.mp3\t"one\ntwo"\n', "one two"),
    ],
)  # fmt: skip
def test_tables_as_they_are_found(write: Write, name: str, content: str, text: str) -> None:
    assert write(name, content).text(f"s/{name}", "src/c/a.wav", "clip 7", 0, 1) == text


STM = """;; a comment
a 1 Ann 0.5 2.0 <o,f0,female> hello  there
a 1 Bo 1.5 3 hi
a 1 Ann 3 4 ignore_time_segment_in_scoring
a 1 Bo 6 7.25 bye
"""


def test_stm_gives_texts_and_turns_of_the_part(write: Write) -> None:
    files = write("x.stm", STM)
    assert files.text("s/x.stm", "src/a.wav", "a", 0, 10) == "hello there hi bye"
    assert files.text("s/x.stm", "src/a.wav", "a", 5, 7.25) == "bye"
    assert files.turns("s/x.stm", "src/a.wav", "a", 1, 6.5) == (
        Turn(start=0, end=1, speaker="Ann"),
        Turn(start=0.5, end=2, speaker="Bo"),
        Turn(start=5, end=5.5, speaker="Bo"),
    )


def test_stm_tells_when_it_is_said(write: Write) -> None:
    files = write("x.stm", STM)
    said = files.spoken("s/x.stm", "src/a.wav", "a", 0.5, 10)
    assert said == (
        Spoken(start=0, end=1.5, text="hello there"),
        Spoken(start=1, end=2.5, text="hi"),
        Spoken(start=5.5, end=6.75, text="bye"),
    )
    assert write("x.lab", "hello").spoken("s/x.lab", "src/a.wav", "a", 0, 1) is None


TURNS = st.lists(
    st.tuples(
        NAMES, st.floats(0, 3600).map(lambda x: round(x, 3)), st.floats(0.001, 100).map(lambda x: round(x, 3)), NAMES
    ),
    min_size=1,
    max_size=20,
)


@given(TURNS, st.floats(0, 100), st.floats(1, 3600))
@settings(max_examples=80, deadline=None)
def test_rttm_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, turns: list[Any], start: float, length: float
) -> None:
    path = tmp_path_factory.mktemp("t") / "x.rttm"
    lines = [f"SPEAKER {file} 1 {begin} {seconds} <NA> <NA> {who} <NA> <NA>" for file, begin, seconds, who in turns]
    path.write_text("\n".join([";; made up", *lines, "SPKR-INFO x 1 <NA> <NA> <NA> unknown Ann <NA>", ""]))
    read = read_rttm(path, "s/x.rttm")
    assert sum(map(len, read.values())) == len(turns)
    files = LabelFiles({"s/x.rttm": path})
    for name in {file for file, *_ in turns}:
        mine = sorted((begin, begin + seconds, who) for file, begin, seconds, who in turns if file == name)
        assert sorted((each.start, each.end, each.speaker) for each in read[name]) == mine
        found = files.turns("s/x.rttm", f"src/{name}.wav", "x", start, start + length)
        assert all(0 <= turn.start < turn.end <= length + 1e-5 for turn in found)
        shared = sum(max(0.0, min(end, start + length) - max(begin, start)) for begin, end, _ in mine)
        assert sum(turn.end - turn.start for turn in found) == pytest.approx(shared, abs=1e-4)


@given(st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("t") / "x"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    readers = ((read_rttm, "rttm"), (read_uem, "uem"), (read_stm, "stm"), (read_table, "csv"), (read_table, "jsonl"))
    for read, suffix in readers:
        if (line := refusal(read, path, f"s/x.{suffix}")) is not None:
            assert line.startswith(f"s/x.{suffix}")
            assert "\n" not in line


def refusal(read: Callable[[Path, str], object], path: Path, where: str) -> str | None:
    try:
        read(path, where)
    except AudioError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("SPEAKER a 1 0 1 <NA> <NA>", "s/x.rttm:1: has 7 fields, and 8 are needed"),
        ("\n# note\nSPEAKR a 1 0 1 <NA> <NA> Ann", "s/x.rttm:3: 'SPEAKR' is no type of RTTM line"),
        ("SPEAKER a 1 -1 1 <NA> <NA> Ann", "s/x.rttm:1: the start is '-1', which is no time in seconds"),
        ("SPEAKER a 1 nan 1 <NA> <NA> Ann", "s/x.rttm:1: the start is 'nan'"),
        ("SPEAKER a 1 0 1e9 <NA> <NA> Ann", "s/x.rttm:1: the duration is '1e9'"),
        ("SPEAKER a 1 0 \u0661 <NA> <NA> Ann", "s/x.rttm:1: the duration is '\u0661'"),
        ("SPEAKER trn00 1 0 1 <NA> <NA> Ann", "s/x.rttm: has no line for trñ00; did you mean 'trn00'?"),
    ],
)
def test_bad_turns_are_told_in_one_line(write: Write, content: str, line: str) -> None:
    with pytest.raises(AudioError) as caught:
        write("x.rttm", content).turns("s/x.rttm", "src/trñ00.wav", "trñ00", 0, 5)
    assert str(caught.value).startswith(line)


def test_a_turn_of_no_length_is_no_speech(write: Write) -> None:
    line = "SPEAKER a 1 1.5 0 <NA> <NA> Ann <NA> <NA>\n"
    assert write("x.rttm", line).turns("s/x.rttm", "src/a.caf", "b", 0, 5) == ()


def test_uem_parts_are_joined_and_cut(write: Write) -> None:
    files = write("x.uem", "a 1 0 10\na 1 10 12\na NA 20 30\n")
    assert files.scored("s/x.uem", "src/a.wav", "a", 5, 25) == ((0, 7), (15, 20))
    with pytest.raises(AudioError, match=r"^s/x\.uem: nothing of 13-19 s of src/a\.wav is annotated"):
        files.scored("s/x.uem", "src/a.wav", "a", 13, 19)


def test_a_file_is_read_once(tmp_path: Path, write: Write) -> None:
    files = write("x.stm", STM)
    files.text("s/x.stm", "src/a.wav", "a", 0, 10)
    (tmp_path / "x.stm").unlink()
    assert files.turns("s/x.stm", "src/a.wav", "a", 6, 10)[0].speaker == "Bo"


@pytest.fixture
def meeting(tmp_path: Path) -> dict[str, Path]:
    """Ten seconds of noise with labels of all kinds."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", rng.uniform(-0.1, 0.1, 80_000), 8000)
    (tmp_path / "a.stm").write_text(STM)
    (tmp_path / "a.rttm").write_text(
        "SPEAKER a 1 1 2 <NA> <NA> Ann <NA> <NA>\nSPEAKER a 1 2 7 <NA> <NA> Bo <NA> <NA>\n"
    )
    (tmp_path / "a.uem").write_text("a 1 0 8\n")
    return {f"s/{path.name}": path for path in tmp_path.iterdir()}


def test_clips_carry_their_labels(meeting: dict[str, Path], tmp_path: Path) -> None:
    labels = {"text_from": "s/a.stm", "turns_from": "s/a.rttm", "scored_from": "s/a.uem"}
    fields = {"role": "evaluation", "defaults": {"source": "s", "license": "MIT", **labels}}
    clips = [{"audio": "s/a.wav", "id": "whole"}, {"audio": "s/a.wav", "crop": [5, 10], "text": "other words"}]
    spec = CorpusSpec.model_validate({**fields, "clips": clips})
    assert spec.references() == ("s/a.wav", "s/a.stm", "s/a.rttm", "s/a.uem")
    corpus = prepare(spec, meeting, tmp_path / "out")
    whole, part = corpus.clips
    assert (whole.text, part.text) == ("hello there hi bye", "other words")
    assert part.spoken is None
    assert whole.spoken is not None
    assert [(each.start, each.text) for each in whole.spoken] == [(0.5, "hello there"), (1.5, "hi"), (6, "bye")]
    assert whole.turns == (Turn(start=1, end=3, speaker="Ann"), Turn(start=2, end=9, speaker="Bo"))
    assert part.turns == (Turn(start=0, end=4, speaker="Bo"),)
    assert (whole.scored, part.scored) == (((0, 8),), ((0, 3),))
    assert Corpus.load(tmp_path / "out") == corpus
    long = prepare(
        CorpusSpec.model_validate({**fields, "clips": clips, "stitch": {"seconds": 60}}), meeting, tmp_path / "l"
    )
    (joined,) = long.recorded
    assert joined.spoken is not None
    assert [(each.start, each.text) for each in joined.spoken][2:] == [(6, "bye"), (10.5, "other words")]
    without = Corpus(role="evaluation", clips=tuple(clip.model_copy(update={"turns": None}) for clip in corpus.clips))
    assert without.digest != corpus.digest


@pytest.mark.registry
def test_a_real_recording_with_turns_and_transcript(pyannote: Path, tmp_path: Path) -> None:
    labels = {"text_from": "s/sample.stm", "turns_from": "s/sample.rttm"}
    defaults = {"source": "pyannote.audio 4.0.7", "license": "MIT", **labels}
    spec = CorpusSpec.model_validate({"role": "evaluation", "defaults": defaults, "clips": [{"audio": "s/sample.wav"}]})
    files = {f"s/sample.{kind}": pyannote / f"sample.{kind}" for kind in ("wav", "stm", "rttm")}
    (clip,) = prepare(spec, files, tmp_path / "out").clips
    assert clip.seconds == pytest.approx(30, abs=0.01)
    assert clip.turns is not None
    assert {turn.speaker for turn in clip.turns} == {"speaker90", "speaker91"}
    assert clip.turns[0] == Turn(start=6.69, end=7.12, speaker="speaker90")
    assert clip.text is not None
    assert clip.text.startswith("Hello? Hello? Oh, hello. I didn't know you were there.")
