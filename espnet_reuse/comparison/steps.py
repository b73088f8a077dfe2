# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The steps of a comparison, and what the result of each depends on."""

import functools
import hashlib
import re
from pathlib import Path

from espnet_reuse.comparison.actions import Actions
from espnet_reuse.comparison.cells import Cell, Comparison, Decoding
from espnet_reuse.comparison.checks import Checks
from espnet_reuse.comparison.models import load
from espnet_reuse.comparison.plan import Step, digest_of, flatten

# Every option of asr.sh counts for every step, also one that a future asr.sh brings,
# but for options that change no result,
WITHOUT_EFFECT = "nj|inference_nj|ngpu|num_nodes|gpu_inference|python|config|skip_.*"
# and for those that only other steps read.
OF_DECODING = (
    "inference_(?!lm).*|batch_size|use_k2|k2_.*|use_streaming|use_maskctc"
    "|num_paths|nll_batch_size|use_nbest_rescoring"
)
OF_LM = "use_lm|lm_.*|inference_lm|use_word_lm|word_vocab_size|num_splits_lm"
OF_TRAINING = (
    "asr_.*|pretrained_model|ignore_init_mismatch|feats_normalize|num_splits_asr"
)
OF_TOKENS = (
    "token_type|nbpe|bpe.*|oov|blank|sos_eos|nlsyms_txt|cleaner|g2p|lang|sot_asr"
    "|hugging_face_model_name_or_path|use_(lang_|nlp_)?prompt"
)
TEST_SETS = "test_sets"
PUBLISHED = ("RESULTS.md", "comparison.json", "comparison.png")


def code_of(path: Path) -> str:
    """Return a script without its comments: a changed comment changes no data."""
    lines = path.read_text("utf-8", "replace").splitlines()
    return "\n".join(line for line in lines if not re.match(r"\s*(#|$)", line))


class Steps:
    """The plan of a comparison: `all` steps, in the order to begin them.

    Attributes:
        shared: The checks of the configs, and steps whose results all models share.
        lengths: The second of these checks, for which nobody waits.
        training: {name of a cell: step}; `scoring` alike.
        comparison: The step that compares all models.
    """

    def __init__(self, comparison: Comparison, actions: Actions):
        """Make the steps of what is compared, and of what does them."""
        self._compared, self._actions = comparison, actions
        self._checks = Checks(comparison, actions.runner)
        self._recipe, self._options = comparison.recipe, comparison.options
        checked, path = comparison.checked, self._recipe.path
        self._configs = Step(
            "check of the configs",
            0,
            checked / "record.json",
            lambda: {"configs": checked.name},
            actions.check_configs,
        )
        self._data = Step(
            "data preparation",
            1,
            path("data/.record.json"),
            functools.cache(self._data_inputs),
            actions.prepare_data,
            made=(str(path("data", self._recipe["train_set"], "text")),),
        )
        self._dump = Step(
            "formatting of the data",
            1,
            path("dump/raw/.record.json"),
            lambda: {TEST_SETS: self._recipe[TEST_SETS]},
            actions.format_data,
            needs=(self._data,),
            made=(str(path("dump/raw", self._recipe["valid_set"], "text")),),
        )
        self._tokens = self._plan_tokens()
        self.lengths = Step(
            "check of tokens against frames",
            2,
            checked / "lengths.json",
            lambda: {"configs": checked.name},
            actions.check_lengths,
            needs=(self._tokens,),
        )
        self._lm = [self._plan_lm()] if comparison.lm_exp else []
        self.shared = [self._configs, self._data, self._dump, self._tokens]
        self.shared += [self.lengths, *self._lm]
        self.training, self.scoring, cells, analyses = {}, {}, [], []
        for cell in comparison.cells:
            training = self._plan_training(cell)
            decoding = [
                self._plan_decoding(cell, training, decoding, name)
                for decoding in cell.decodings
                for name in self._recipe.test_sets
            ]
            scoring = self._plan_scoring(cell, decoding)
            self.training[cell.name], self.scoring[cell.name] = training, scoring
            cells += [training, *decoding, scoring]
            analyses.append(self._plan_analysis(cell))
        self.comparison = self.plan_comparison(comparison.cells)
        self.all = [*self.shared, *cells, self.comparison, *analyses]

    def _options_but(self, *patterns: str) -> dict[str, str]:
        """Return the options of asr.sh that a step's result depends on."""
        without = re.compile("|".join([WITHOUT_EFFECT, *patterns]))
        options = self._recipe.options
        return {k: v for k, v in options.items() if not without.fullmatch(k)}

    def _contents(self, *sets: str) -> dict[str, str]:
        """Return digests of what models are trained or tested on."""
        files = ("text", "utt2num_samples")
        return {
            place: digest_of(*(self._recipe.path(place, file) for file in files))
            for place in (f"dump/raw/{name}" for name in sets)
        }

    def _data_inputs(self) -> dict[str, str]:
        options = self._recipe.data_options
        inputs = {f"--{option}": value for option, value in options.items()}
        for option, value in options.items():
            for path in sorted(Path(value).glob("*/*")) if "/" in value else ():
                if path.name in ("wav.scp", "text", "utt2spk", "segments"):
                    part = path.relative_to(value)
                    inputs[f"--{option} {part}"] = digest_of(path)
        scripts = sorted(self._recipe.path("local").glob("*.*"))
        for path in (*scripts, self._recipe.path("db.sh")):  # db.sh: where corpora are
            if path.suffix in (".py", ".sh"):
                digest = hashlib.sha256(code_of(path).encode()).hexdigest()[:8]
                inputs[str(path.relative_to(self._recipe.folder))] = digest
        return inputs | self._options_but(
            OF_TOKENS, OF_LM, OF_TRAINING, OF_DECODING, TEST_SETS
        )

    def _token_inputs(self) -> dict[str, str]:
        inputs = self._options_but(OF_LM, OF_TRAINING, OF_DECODING, TEST_SETS)
        # statistics are of the features of the first config; the others' are the same
        for key, value in flatten(self._compared.models[0].config).items():
            if key.startswith("frontend"):
                inputs[f"config {key}"] = value
        if "--frontend" in self._options.asr_args:
            inputs["--asr_args"] = self._options.asr_args
        recipe, train_set = self._recipe, f"dump/raw/{self._recipe['train_set']}"
        # one of the two is trained on, whatever an earlier run has left of the other
        inputs |= {train_set: "none", f"{train_set}_sp": "none"}
        return inputs | self._contents(recipe.trained_on, recipe["valid_set"])

    def _plan_tokens(self) -> Step:
        made = ("data/*token_list/*/tokens.txt", "exp/asr_stats*")
        return Step(
            "tokens and statistics",
            2,
            self._compared.exp / ".tokens.json",
            self._token_inputs,
            self._actions.make_tokens,
            after=(self._dump,),
            made=tuple(str(self._recipe.path(pattern)) for pattern in made),
        )

    def _plan_lm(self) -> Step:
        inputs = self._options_but(OF_TRAINING, OF_DECODING, TEST_SETS)
        texts = [self._recipe.path(x) for x in self._recipe["lm_train_text"].split()]
        config, text = self._recipe["lm_config"], "contents of --lm_train_text"
        if config:
            inputs |= flatten(load(self._recipe.folder, config), f"{config} ")
        return Step(
            "language model",
            2,
            self._recipe.path(self._compared.lm_exp, ".record.json"),
            lambda: inputs | {text: digest_of(*texts)},
            self._actions.train_lm,
            self._checks.language_model,
            needs=(self._tokens,),
            made=(str(self._compared.lm_file),),
            resumed=self._compared.lm_file.with_name("checkpoint.pth"),
            adaptable=(f"{config} max_epoch", text),  # it may fetch text itself
        )

    def _plan_training(self, cell: Cell) -> Step:
        inputs = {f"config {k}": v for k, v in flatten(cell.config).items()}
        inputs["--asr_args"] = self._options.asr_args
        inputs |= self._options_but(OF_LM, OF_TOKENS, OF_DECODING, TEST_SETS)
        needs = [self._tokens]
        if cell.model.warm:
            first = self._compared.cell(self._compared.models[0], cell.seed)
            needs.append(self.training[first.name])
        return Step(
            f"training {cell.name}",
            3,
            cell.folder / ".training.json",
            lambda: inputs,
            functools.partial(self._actions.train, cell),
            functools.partial(self._checks.training, cell),
            needs=tuple(needs),
            after=tuple(self._lm),
            made=(f"{cell.folder}/config.yaml", f"{cell.folder}/*.ave.pth"),
            resumed=cell.folder / "checkpoint.pth",
            adaptable=("config max_epoch",),
            labels={f"config {k}": f"{v} {k}" for k, v in cell.model.sources.items()},
        )

    def _plan_decoding(
        self, cell: Cell, training: Step, decoding: Decoding, name: str
    ) -> Step:
        inputs = flatten(decoding.options, f"{decoding.config.name} ")
        inputs["--inference_args"] = decoding.args
        inputs |= self._options_but(OF_LM, OF_TRAINING, OF_TOKENS, TEST_SETS)
        place = self._compared.place(name)
        beside = "" if decoding is cell.decodings[0] else ", best path"
        return Step(
            f"decoding {cell.name}, {name}{beside}",
            4,
            cell.folder / decoding.tag / place / ".record.json",
            lambda: inputs | self._contents(place),
            functools.partial(self._actions.decode, cell, decoding, name),
            functools.partial(self._checks.models, [cell]),
            needs=(training, *([] if decoding.is_best_path else self._lm)),
        )

    def _plan_scoring(self, cell: Cell, decodings: list[Step]) -> Step:
        return Step(
            f"scoring {cell.name}",
            5,
            cell.folder / cell.decodings[0].tag / ".scoring.json",
            dict,
            functools.partial(self._actions.score, cell),
            needs=tuple(decodings),
            made=(str(cell.folder / "RESULTS.md"),),
        )

    def plan_comparison(self, cells: list[Cell]) -> Step:
        """Return the step that compares cells, all seeds of each model."""
        inputs = {
            "--models": " ".join(dict.fromkeys(cell.model.name for cell in cells)),
            "--seeds": " ".join(map(str, self._options.seeds)),
            "--test_sets": " ".join(self._recipe.test_sets),
        }
        if self._options.results:
            inputs["command"] = self._compared.command
        exp, files = self._compared.exp, (*PUBLISHED, "comparison_details.md")
        return Step(
            "comparison",
            6,
            exp / ".comparison.json",
            lambda: inputs,
            functools.partial(self._actions.compare, cells),
            functools.partial(self._checks.models, cells),
            needs=tuple(self.scoring[cell.name] for cell in cells),
            made=tuple(str(exp / name) for name in files),
        )

    def _plan_analysis(self, cell: Cell) -> Step:
        name = self._options.analysis_set or self._recipe.test_sets[-1]
        return Step(
            f"analysis of {cell.name}",
            7,
            cell.folder / "analysis" / name / ".record.json",
            lambda: {
                "--analysis_args": self._options.analysis_args,
                **self._contents(name),
            },
            functools.partial(self._actions.analyse, cell, name),
            functools.partial(self._checks.models, [cell]),
            needs=(self.training[cell.name],),
        )
