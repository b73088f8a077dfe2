# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Best path is the best token of each frame, merged, alone, in batches, in windows."""

import argparse
import itertools
import logging
import sys

import jiwer
import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.bin import asr_inference
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.tasks.asr import ASRTask, encoder_choices

from espnet_reuse.bin import asr_inference_ctc as ctc

RATE = 8000
SMALL = {"output_size": 16, "attention_heads": 2, "num_blocks": 2, "linear_units": 16}
BRANCHES = {"output_size": 16, "attention_heads": 2, "cgmlp_linear_units": 16}
LATEST = {"rel_pos_type": "latest"}
INVARIANT = {  # {encoder: its options}: one of each of ours, and ESPnet's
    "conformer_reuse": SMALL | LATEST | {"reuse_group_size": 2},
    "transformer_reuse": SMALL | {"reuse_group_size": 2, "input_layer": "linear"},
    "branchformer_reuse": BRANCHES | LATEST | {"num_blocks": 2},
    "e_branchformer_reuse": BRANCHES | LATEST | {"num_blocks": 2, "linear_units": 16},
    "conformer": SMALL | LATEST | {"input_layer": "conv2d8"},
    "transformer": SMALL | {"input_layer": "conv2d6"},
    "rnn": {"num_layers": 2, "hidden_size": 16, "output_size": 16},
}
SEEING_PADDING = {
    "conformer": SMALL | {"rel_pos_type": "legacy"},
    "vgg_rnn": {"num_layers": 1, "hidden_size": 16, "output_size": 16},
    "contextual_block_conformer": SMALL | {"block_size": 40, "look_ahead": 16},
}


def config_of(encoder, conf, **more):
    return {
        "token_list": ["<blank>", "<unk>", *"abcdef", "<space>", "<sos/eos>"],
        "token_type": "char",
        "encoder": encoder,
        "encoder_conf": conf,
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "num_blocks": 1, "linear_units": 16},
        "frontend_conf": {"fs": "8k", "hop_length": 80, "n_fft": 256, "n_mels": 20},
        "normalize": "utterance_mvn",
        **more,
    }


@pytest.fixture(scope="module")
def make(tmp_path_factory, save_model):
    """A function that makes a Speech2Text, by the arguments of `config_of`."""

    def make_one(encoder, conf, options=None, **more):
        folder = tmp_path_factory.mktemp(encoder)
        save_model(folder, config_of(encoder, conf, **more), 0.1)
        files = folder / "config.yaml", folder / "model.pth"
        speech2text = ctc.Speech2Text(*files, **(options or {}))
        speech2text.folder = folder
        return speech2text

    return make_one


def noise(*seconds):
    """Return waveforms whose labels differ from frame to frame."""
    rng = np.random.default_rng(0)
    loudness = [np.repeat(rng.uniform(0, 1, 100), RATE // 20) for _ in seconds]
    return [
        np.float32(rng.normal(size=(n := int(RATE * s))) * loud[:n])
        for s, loud in zip(seconds, loudness, strict=True)
    ]


def speak(speech2text, speeches):
    """Change the CTC head until the utterances have blanks, and several tokens."""
    head = speech2text.asr_model.ctc.ctc_lo
    with torch.no_grad():
        torch.nn.init.normal_(head.weight, std=3)
        logits = torch.cat([encode(speech2text, speech) for speech in speeches])
        head.bias -= logits.mean(0)
        logits = logits - logits.mean(0)
        # in half of the frames, and nowhere as good as another token
        head.bias[0] += (logits.amax(-1) - logits[:, 0]).median() + 1e-3


@torch.no_grad()
def encode(speech2text, speech):
    """Return the CTC head's logits of an utterance, by ESPnet's encode()."""
    model = speech2text.asr_model
    encoded, _ = model.encode(torch.tensor(speech)[None], torch.tensor([len(speech)]))
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    return model.ctc.ctc_lo(encoded)[0]


def token_ids(results):
    return [result[0][2] for result in results]


@pytest.mark.parametrize(
    ("encoder", "conf", "invariant"),
    [(*item, True) for item in INVARIANT.items()]
    + [(*item, False) for item in SEEING_PADDING.items()],
)
def test_an_utterance_has_the_same_tokens_alone_and_in_any_batch(
    make, encoder, conf, invariant, caplog
):
    speech2text = make(encoder, conf)
    speeches = noise(0.9, 2.3, 0.25, 1.4, 2.31, 1.6, 3.05)
    speak(speech2text, speeches)
    expected = []
    for speech in speeches:
        labels = encode(speech2text, speech).argmax(-1).tolist()
        expected.append([label for label, _ in itertools.groupby(labels) if label])
    assert sum(map(len, expected)) > 20 and len({*sum(expected, [])}) > 2
    alone = [speech2text.best_path(speech) for speech in speeches]
    assert token_ids(alone) == expected
    assert speech2text.is_padding_invariant == invariant
    orders = {5: range(7), 0.1: range(6, -1, -1), 1000: (3, 1, 0, 4, 6, 2, 5)}
    for batch_seconds, order in orders.items():
        chosen = [speeches[n] for n in order]
        together = speech2text.best_path_batch(chosen, batch_seconds=batch_seconds)
        assert token_ids(together) == [expected[n] for n in order]
        for n, ((*_, hypothesis),) in zip(order, together, strict=True):
            assert hypothesis.score == pytest.approx(alone[n][0][3].score, rel=1e-4)
    said = [r for r in caplog.records if "one at a time" in r.message]
    assert len(said) == (not invariant)


@pytest.mark.parametrize("channels", [(), (2,)])
def test_the_features_of_one_utterance_are_espnets_bit_for_bit(make, channels):
    speech2text = make("transformer", SMALL)
    files = (speech2text.folder / name for name in ("config.yaml", "model.pth"))
    theirs = asr_inference.Speech2Text(*files).asr_model.frontend
    ours = speech2text.asr_model.frontend
    for samples in (RATE, RATE + 37):
        speech, lengths = torch.randn(1, samples, *channels), torch.tensor([samples])
        for feats, expected in zip(
            ours(speech, lengths), theirs(speech, lengths), strict=True
        ):
            assert torch.equal(feats, expected) and feats.dtype == expected.dtype


def test_batches_have_similar_lengths_and_no_more_seconds_than_asked_for(
    make, monkeypatch
):
    speech2text = make("transformer", SMALL)
    seen, decode = [], speech2text._best_paths
    monkeypatch.setattr(
        speech2text, "_best_paths", lambda batch: seen.append(batch) or decode(batch)
    )
    speech2text.best_path_batch(noise(1, 3, 2, 1.1, 2.9, 0.1), batch_seconds=6)
    assert [[len(s) / RATE for s in batch] for batch in seen[1:]] == [
        [3.0, 2.9],
        [2.0, 1.1, 1.0],
    ] and len(seen[0]) == 1  # the short one


def test_the_score_is_the_log_probability_of_the_best_path(make):
    speech2text = make("transformer", SMALL)
    (speech,) = noise(1.5)
    speak(speech2text, [speech])
    log_probs = speech2text.ctc_log_probs(speech)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=1e-5)
    expected = encode(speech2text, speech).log_softmax(-1)
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)
    ((_, _, token_int, hypothesis),) = speech2text.best_path(speech)
    assert hypothesis.score == pytest.approx(log_probs.max(-1).sum(), rel=1e-5)
    model = speech2text.asr_model
    assert hypothesis.yseq.tolist() == [model.sos, *token_int, model.eos]


def test_bfloat16_is_the_encoders_alone(make):
    conf = INVARIANT["conformer_reuse"]
    speech2text = make("conformer_reuse", conf, {"dtype": "bfloat16"})
    model, dtypes = speech2text.asr_model, {}
    parts = {
        "features": model.normalize,
        "encoder": model.encoder.encoders[0].feed_forward.w_1,
        "head": model.ctc.ctc_lo,
    }
    for name, module in parts.items():
        module.register_forward_hook(
            lambda module, _, out, name=name: dtypes.update(
                {name: (out[0] if isinstance(out, tuple) else out).dtype}
            )
        )
    for hypotheses in speech2text.best_path_batch(noise(1, 2, 1.5)):
        assert np.isfinite(hypotheses[0][3].score)
    expected = {"features": torch.float32, "encoder": torch.bfloat16}
    assert dtypes == expected | {"head": torch.float32}


def test_a_quantized_model_has_the_same_tokens_alone_and_in_a_batch(make):
    options = {"quantize_asr_model": True}
    speech2text = make("conformer_reuse", INVARIANT["conformer_reuse"], options)
    speeches = noise(1, 2, 1.5)
    kinds = {type(m).__module__ for m in speech2text.asr_model.encoder.modules()}
    assert any("quantized" in kind for kind in kinds)
    alone = [speech2text.best_path(speech) for speech in speeches]
    assert token_ids(speech2text.best_path_batch(speeches)) == token_ids(alone)


def test_a_model_without_a_ctc_head_is_refused_in_one_line(make):
    with pytest.raises(ctc.BestPathError, match="ctc_weight 0.0") as error:
        make("transformer", SMALL, model_conf={"ctc_weight": 0.0})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seconds", [0, 1 / RATE, 0.01, 0.04])
def test_of_several_utterances_one_that_is_too_short_has_no_text(make, seconds, caplog):
    speech2text = make("conformer", INVARIANT["conformer"])
    speeches = noise(1, seconds, 2)
    speak(speech2text, speeches[::2])
    with pytest.raises(TooShortUttError):
        speech2text.best_path(speeches[1])
    results = speech2text.best_path_batch(speeches, utt_ids=["a", "short", "c"])
    alone = [speech2text.best_path(speech) for speech in speeches[::2]]
    assert token_ids(results[::2]) == token_ids(alone)
    assert results[1][0][:3] == ("", [], []) and results[1][0][3].times == []
    assert "Utterance short: " in caplog.text


# ---- tokens whose place is known ----------------------------------------------------


class ToneEncoder(AbsEncoder):
    """Hands on every fourth frame of the features: no frame sees another."""

    def __init__(self, input_size):
        """Take what ESPnet gives it."""
        super().__init__()
        self.size = input_size

    def output_size(self):
        """Return the size of the features."""
        return self.size

    def forward(self, xs_pad, ilens, prev_states=None):
        """Return (batch, frames', size), lengths and no state."""
        return xs_pad[:, ::4], (ilens + 3) // 4, None


TONES = [400, 800, 1300, 1900, 2600, 3400]  # Hz, of the tokens a to f
FRAME = 4 * 80 / RATE  # seconds


@pytest.fixture(scope="module")
def tones(make):
    """A Speech2Text that hears tones: a token for each frequency, blank for silence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoder_choices.classes, "tones", ToneEncoder)
        speech2text = make("tones", {}, normalize=None)
    head = speech2text.asr_model.ctc.ctc_lo
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-100.0)
        head.bias[0] = 0.0  # blank, where no band is loud
        for token, hz in enumerate(TONES, start=2):
            feats, _ = speech2text.asr_model.frontend(
                torch.tensor(play([(0.0, 1.0, hz)], 1.0))[None], torch.tensor([RATE])
            )
            head.weight[token, feats[0, 50].argmax()] = 1.0
            head.bias[token] = 0.0
    return speech2text


def play(notes, seconds, rate=RATE):
    """Return a waveform with tones, (start, end, Hz)."""
    time = np.arange(int(seconds * rate)) / rate
    wave = np.zeros(len(time), np.float32)
    for start, end, hz in notes:
        sound = (start <= time) & (time < end)
        wave[sound] = np.sin(2 * np.pi * hz * time[sound])
    return wave


def melody(seconds, length=0.2, gap=0.2, start=0.4):
    """Return notes and their tokens: no two neighbours are the same."""
    rng, notes, text = np.random.default_rng(1), [], ""
    while start + length + gap < seconds:
        choice = rng.choice([c for c in "abcdef" if not text.endswith(c)])
        text += choice
        notes.append((start, start + length, TONES["abcdef".index(choice)]))
        start += length + gap
    return notes, text


def test_a_token_has_the_times_of_its_tone(tones):
    notes, text = melody(4)
    ((said, *_, hypothesis),) = tones.best_path(play(notes, 4))
    assert said == text
    expected = [note[:2] for note in notes]
    np.testing.assert_allclose(hypothesis.times, expected, atol=FRAME)


@pytest.mark.parametrize("shift", np.arange(0, 0.4, 0.04).round(2))
def test_no_token_is_lost_or_doubled_at_a_seam(tones, shift):
    # 0.4 s from tone to tone: with every shift, the seams at n * 1.6 s are elsewhere
    notes, text = melody(20, start=0.1 + shift)
    options = {"window_in_secs": 2.4, "context_len_in_secs": 0.4}
    for batch_size in (1, 3):
        pieces = tones.decode_long(play(notes, 20), batch_size=batch_size, **options)
        assert "".join(text for *_, text in pieces) == text
        assert len(pieces) > 5
    times = [time for start, end, _ in pieces for time in (start, end)]
    assert times == sorted(times)
    ends = itertools.accumulate(len(text) for *_, text in pieces)
    expected = [notes[n - 1][1] for n in ends]
    np.testing.assert_allclose(times[1::2], expected, atol=2 * FRAME)


@pytest.mark.parametrize("encoder", ["rnn", "vgg_rnn"])
def test_windows_may_be_decoded_together(make, encoder):
    conf = (INVARIANT | SEEING_PADDING)[encoder]
    speech2text, (speech,) = make(encoder, conf), noise(4.9)
    speak(speech2text, [speech])
    options = {"window_in_secs": 2.4, "context_len_in_secs": 0.4}
    pieces = speech2text.decode_long(speech, **options)
    assert speech2text.decode_long(speech, batch_size=3, **options) == pieces


def test_a_tone_over_a_seam_is_one_token(tones):
    wave = play([(0.5, 7.5, TONES[0]), (8.0, 8.5, TONES[1])], 10)
    options = {"window_in_secs": 2.4, "context_len_in_secs": 0.4}
    pieces = tones.decode_long(wave, **options)
    assert "".join(text for *_, text in pieces) == "ab"


def test_a_piece_of_text_ends_with_a_whole_word(tones, monkeypatch):
    notes, _ = melody(30)
    letters = {"f": " "}  # the highest tone is the space between words
    read = tones.tokenizer.tokens2text
    monkeypatch.setattr(
        tones.tokenizer,
        "tokens2text",
        lambda tokens: "".join(letters.get(c, c) for c in read(tokens)),
    )
    ((whole, *_),) = tones.best_path(play(notes, 30))
    options = {"window_in_secs": 4.8, "context_len_in_secs": 0.4}
    pieces = [text for *_, text in tones.decode_long(play(notes, 30), **options)]
    assert len(pieces) > 3
    assert " ".join(pieces).split() == whole.split()


def test_a_long_pause_ends_a_word_and_is_not_kept(tones, monkeypatch):
    notes = [(0.5, 0.7, TONES[0]), (0.9, 1.1, TONES[1]), (45, 45.2, TONES[2])]
    seen = []
    collapse = ctc.collapse
    monkeypatch.setattr(
        ctc, "collapse", lambda *args: seen.append(len(args[0])) or collapse(*args)
    )
    options = {"window_in_secs": 4.8, "context_len_in_secs": 0.4}
    pieces = tones.decode_long(play(notes, 60), **options)
    assert [text for *_, text in pieces] == ["ab", "c"]
    assert max(seen) * FRAME < 3 * 4.8


def test_a_kept_frame_has_its_context_on_both_sides(tones):
    for seconds in (3, 9, 9.3, 14.77):
        samples = np.arange(int(seconds * RATE), dtype=np.float32)
        chunks = np.array_split(samples, 7)
        kept, per_frame = [], tones.samples_per_frame
        for window, first, count in tones._windows(chunks, step=40, context=10):
            begin = int(window[0]) // per_frame
            end = begin + -(-len(window) // per_frame)
            last = end if count is None else begin + first + count
            assert first >= 10 or begin == 0
            assert end - last >= 10 or count is None
            kept += range(begin + first, last)
        assert kept == list(range(-(-len(samples) // per_frame)))


def test_a_file_of_another_rate_is_decoded_as_its_resampled_waveform(tones, tmp_path):
    notes, text = melody(9)
    wave = play(notes, 9, rate=11025)
    stereo = np.stack([wave, wave[::-1]], axis=1)
    soundfile.write(tmp_path / "melody.wav", stereo, 11025, subtype="FLOAT")
    options = {"window_in_secs": 2.4, "context_len_in_secs": 0.4}
    pieces = tones.decode_long(tmp_path / "melody.wav", **options)
    assert "".join(text for *_, text in pieces) == text
    np.testing.assert_allclose(pieces[0][0], notes[0][0], atol=FRAME)


def test_a_recording_of_one_window_is_decoded_as_an_utterance(make):
    speech2text = make("conformer_reuse", INVARIANT["conformer_reuse"])
    (speech,) = noise(4)
    speak(speech2text, [speech])
    ((text, _, _, hypothesis),) = speech2text.best_path(speech)
    times = hypothesis.times[0][0], hypothesis.times[-1][1]
    assert speech2text.decode_long(speech) == [(*times, text.strip())]


def test_memory_does_not_grow_with_the_recording(tones, monkeypatch):
    longest, second = 0, play(melody(1)[0], 1)

    def path_of(batch):
        nonlocal longest
        longest = max([longest, *map(len, batch)])
        return best_paths(batch)

    best_paths = tones._best_paths
    monkeypatch.setattr(tones, "_best_paths", path_of)
    monkeypatch.setattr(tones, "_chunks", lambda *_: itertools.repeat(second))
    pieces = tones.iter_long("without end")
    for _, end, text in pieces:
        assert len(text) < 60
        if end > 1000:
            break
    assert longest <= 30 * RATE


@pytest.fixture(scope="module")
def trained_on_concatenations(an4, tmp_path_factory):
    """A Speech2Text that knows mini_an4's recordings, one after another, by heart."""
    words = sorted({word for text, _ in an4 for word in text.split()})
    conf = {
        **{"output_size": 48, "attention_heads": 4, "linear_units": 96},
        **{"num_blocks": 3, "reuse_group_size": 2, "macaron_style": True},
        **dict.fromkeys(("dropout_rate", "positional_dropout_rate"), 0.0),
        **{"attention_dropout_rate": 0.0, "cnn_module_kernel": 15},
    }
    config = ASRTask.get_default_config() | {
        "token_list": ["<blank>", "<unk>", *words, "<sos/eos>"],
        "token_type": "word",
        "encoder": "conformer_reuse",
        "encoder_conf": conf | LATEST,
        "decoder": None,
        "model_conf": {"ctc_weight": 1.0},
        "frontend_conf": {"fs": "16k", "n_mels": 40, "hop_length": 160},
        "normalize": "utterance_mvn",
    }
    torch.manual_seed(0)
    rng, steps = np.random.default_rng(0), 300
    model = ASRTask.build_model(argparse.Namespace(**config))
    optimizer = torch.optim.Adam(model.parameters())

    def concatenate(seconds):
        ids, wavs = [], []
        while sum(map(len, wavs)) < seconds * 16000:
            text, wav = an4[rng.integers(len(an4))]
            ids += [config["token_list"].index(word) for word in text.split()]
            wavs.append(torch.tensor(wav * rng.uniform(0.5, 1.5)).float())
        return torch.cat(wavs), torch.tensor(ids)

    for step in range(steps):
        early = step < 0.6 * steps  # short and many, then long and few
        longest, batch = (4, 4) if early else (20, 2)
        pairs = [concatenate(rng.uniform(1, longest)) for _ in range(batch)]
        padded = []
        for parts in zip(*pairs, strict=True):
            padded.append(torch.nn.utils.rnn.pad_sequence(parts, batch_first=True))
            padded.append(torch.tensor([len(part) for part in parts]))
        fade = 1.0 if step < 0.7 * steps else 0.3
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 40) * fade
        optimizer.zero_grad()
        model(*padded)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    folder = tmp_path_factory.mktemp("concatenations")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), folder / "model.pth")
    return ctc.Speech2Text(folder / "config.yaml", folder / "model.pth")


@pytest.mark.slow
def test_of_a_hundred_words_in_a_long_recording_one_may_differ(
    trained_on_concatenations, an4
):
    speech2text, rng = trained_on_concatenations, np.random.default_rng(1)
    alone = {text: speech2text.best_path(np.float32(wav))[0][0] for text, wav in an4}
    assert all(text == said for text, said in alone.items())  # it is a good model
    chosen = [an4[n] for n in rng.integers(len(an4), size=200)]
    recording = np.concatenate([np.float32(wav) for _, wav in chosen])
    pieces = speech2text.decode_long(recording)  # windows of 30 s, context of 4 s
    assert len(pieces) > 10
    expected = " ".join(alone[text] for text, _ in chosen)
    assert jiwer.wer(expected, " ".join(text for *_, text in pieces)) <= 0.01


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window_in_secs": 8, "context_len_in_secs": 4}, "less than half"),
        ({"context_len_in_secs": 0}, "too short"),
    ],
)
def test_windows_that_do_not_fit_are_refused(make, options, said):
    speech2text = make("conformer", INVARIANT["conformer"])
    with pytest.raises(ValueError, match=f"context_len_in_secs: .*{said}"):
        speech2text.decode_long(np.zeros(60 * RATE), **options)


# ---- the command --------------------------------------------------------------------


@pytest.fixture
def decode(tmp_path, monkeypatch):
    """A function that runs the program on waveforms and returns its folder."""

    def run(speech2text, speeches, *options):
        for utt_id, speech in speeches.items():
            soundfile.write(tmp_path / f"{utt_id}.wav", speech, RATE, subtype="FLOAT")
        scp, output = tmp_path / "wav.scp", tmp_path / "output"
        scp.write_text("".join(f"{u} {tmp_path}/{u}.wav\n" for u in speeches))
        files = (speech2text.folder / name for name in ("config.yaml", "model.pth"))
        words = ["--data_path_and_name_and_type", f"{scp},speech,sound"]
        for option, value in zip(("config", "model_file"), files, strict=True):
            words += [f"--asr_{option.replace('config', 'train_config')}", value]
        words += ["--output_dir", output, "--num_workers", "0", *options]
        ctc.main(list(map(str, words)))
        return output / "1best_recog"

    return run


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_command_writes_espnets_files(make, decode, batch_size, caplog):
    caplog.set_level(logging.INFO)
    speech2text = make("conformer", INVARIANT["conformer"])
    speeches = dict(zip("abcd", noise(1, 0.01, 2, 1.5), strict=True))
    folder = decode(
        speech2text, speeches, "--search", "best_path", "--batch_size", batch_size
    )
    written = {
        name: dict(
            line.partition(" ")[::2]
            for line in (folder / name).read_text().splitlines()
        )
        for name in ("text", "token", "token_int", "score")
    }
    for utt_id, speech in speeches.items():
        text, token, token_int, score = "", [], [], 0.0
        if utt_id != "b":
            ((text, token, token_int, hypothesis),) = speech2text.best_path(speech)
            score = hypothesis.score
        assert written["text"][utt_id] == text
        assert written["token"][utt_id] == " ".join(token)
        assert written["token_int"][utt_id] == " ".join(map(str, token_int))
        assert float(written["score"][utt_id]) == pytest.approx(score, rel=1e-4)
    assert "Utterance b: " in caplog.text
    # what asr.sh's calculate_rtf.py counts
    assert caplog.text.count("speech length: ") == 4
    assert caplog.text.count("best hypo: ") == 4


def test_a_ctm_has_the_times_of_words(make, decode):
    speech2text = make("conformer_reuse", INVARIANT["conformer_reuse"])
    (speech,) = noise(3)
    speak(speech2text, [speech])
    torch.save(speech2text.asr_model.state_dict(), speech2text.folder / "model.pth")
    folder = decode(speech2text, {"a": speech}, "--search", "best_path", "--ctm", True)
    ((text, token, _, hypothesis),) = speech2text.best_path(speech)
    expected, letters = [], iter(zip(token, hypothesis.times, strict=True))
    for is_space, group in itertools.groupby(letters, lambda x: x[0] == "<space>"):
        if not is_space:
            tokens, times = zip(*group, strict=True)
            start, end = times[0][0], times[-1][1]
            expected.append(f"a 1 {start:.3f} {end - start:.3f} {''.join(tokens)}")
    assert len(expected) > 1
    assert (folder / "ctm").read_text().splitlines() == expected


def test_a_beam_search_is_espnets_own(make, decode, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        asr_inference, "inference", lambda **kwargs: seen.update(kwargs)
    )
    speech2text = make("transformer", SMALL)
    decode(speech2text, dict(a=noise(1)[0]), "--beam_size", 3)
    expected = vars(
        asr_inference.get_parser().parse_args(
            ["--output_dir=x"] + ["--data_path_and_name_and_type=a,b,c"]
        )
    )
    assert seen["beam_size"] == 3
    assert seen.keys() == expected.keys() - {"config"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ctm", "true"], "--ctm and bfloat16 need --search best_path"),
        (["--dtype", "bfloat16"], "--ctm and bfloat16 need --search best_path"),
        (["--search", "best_path", "--ngpu", "2"], "only single GPU"),
        (["--search", "best_path", "--multi_asr", "true"], "one speaker"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(make, decode, words, said):
    speech2text = make("transformer", SMALL)
    with pytest.raises(SystemExit, match=f"^asr_inference_ctc: error: .*{said}.*$"):
        decode(speech2text, dict(a=noise(1)[0]), *words)


def test_the_runner_takes_an_inference_config_with_best_path(
    make, tmp_path, monkeypatch
):
    from espnet_reuse import run

    monkeypatch.setattr(ctc, "inference", None)  # another module runs: __main__
    speech2text = make("conformer_reuse", INVARIANT["conformer_reuse"])
    (speech,) = noise(2)
    soundfile.write(tmp_path / "a.wav", speech, RATE, subtype="FLOAT")
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump({"search": "best_path"}))
    words = ["--config", tmp_path / "decode.yaml", "--output_dir", tmp_path / "out"]
    words += ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound"]
    words += ["--asr_train_config", speech2text.folder / "config.yaml"]
    words += ["--asr_model_file", speech2text.folder / "model.pth", "--num_workers", 0]
    monkeypatch.setattr(sys, "argv", sys.argv[:])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    run._run_as_main(["-m", "espnet2.bin.asr_inference", *map(str, words)])
    ((text, *_),) = speech2text.best_path(speech)
    assert (tmp_path / "out/1best_recog/text").read_text() == f"a {text}\n"
