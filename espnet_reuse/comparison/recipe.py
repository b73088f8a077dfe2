# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""A recipe: the options in its conf/asr.conf, and what its scripts take."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from espnet_reuse.data.perturb_speed import check_factors
from espnet_reuse.errors import UserError

# A run sets these itself, or does without them.
RESERVED = re.compile(
    "config|dumpdir|expdir|asr_(exp|tag|config|stats_dir)|lm_exp|inference_tag"
    "|inference_asr_model|eval_valid_set|.*ngram.*|feats_type|skip_.*|use_lightning"
    "|download_model|hyp_cleaner|(local_)?score_opts|local_data_opts"
)
SETS = ("train_set", "valid_set", "test_sets")
NUMBER = r"\d+(?:\.\d+)?[kK]?"

FILES = ("bpe_train_text", "lm_train_text", "lm_dev_text", "lm_test_text", "nlsyms_txt")
VALUES = {  # {option: (regular expression, what it should be)}
    "nbpe": ("[1-9][0-9]*", "a whole number from 1 up"),
    "bpemode": ("unigram|bpe|char|word", "unigram, bpe, char or word"),
    "bpe_char_cover": (r"0\.9[89][0-9]*|1(\.0*)?", "a share from 0.98 to 1"),
}


class Recipe:
    """A folder egs2/<corpus>/asr1, and the options of its asr.sh in this run.

    Attributes:
        options: {option of asr.sh: value}, of conf/asr.conf and of the user.
        chosen: The user's alone.
        data_options: {option of local/data.sh: value}, the user's.
    """

    def __init__(self, root: Path, name: str, chosen: dict[str, str]):
        """Read the recipe, and share out the user's options for asr.sh and data.sh.

        Raises:
            UserError: There is no such recipe, or an option is wrong.
        """
        recipes = sorted(p.parts[-3] for p in (root / "egs2").glob("*/asr1/run.sh"))
        if name not in recipes:
            choice = " ".join(recipes)
            raise UserError(
                f"--corpus: no recipe '{name}' in egs2; choose from: {choice}"
            )
        self.root, self.name = root, name
        self.folder = root / "egs2" / name / "asr1"
        self.chosen, self.data_options = {}, {}
        problems = []
        for option, value in chosen.items():
            try:
                self._take(option, value)
            except UserError as e:
                problems.append(str(e))
        self.options = self._read_conf() | self.chosen
        if "parts" in self.data_options and "test_sets" not in self.chosen:
            self._choose_test_sets(self.data_options["parts"])
        problems += [*self._find_wrong_sets(), *self._find_wrong_values()]
        if problems:
            raise UserError("\n".join(problems))

    def __getitem__(self, option: str) -> str:
        """Return the value of an option of asr.sh, "" for asr.sh's own default."""
        return self.options.get(option, "")

    def path(self, *parts: str) -> Path:
        """Return a path in the recipe's folder."""
        return self.folder.joinpath(*parts)

    def bash(self, script: str, *args: str) -> subprocess.CompletedProcess:
        """Run lines of bash in the recipe's folder."""
        command = ["bash", "-c", script, "bash", *args]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, encoding="utf-8"
        )

    def _read_conf(self) -> dict[str, str]:
        """Read conf/asr.conf, plain assignments, as asr.sh does."""
        path = self.path("conf/asr.conf")
        words = shlex.split(path.read_text(encoding="utf-8"), comments=True)
        wrong = [word for word in words if not re.match(r"\w+=[^$`]*$", word)]
        if wrong:
            raise UserError(f"{path}: '{wrong[0]}' is not an option=value without $")
        return dict(word.split("=", 1) for word in words)

    def accepts(self, script: str, option: str, value: str) -> bool:
        """Ask a script with Kaldi's parse_options.sh whether it has an option."""
        asked = self.bash('"$@"', script, f"--{option}", value, "--help")
        if asked.returncode == 0 or "invalid option" in asked.stderr:
            return asked.returncode == 0
        reason = (asked.stdout + asked.stderr).strip().splitlines()[-1]
        raise UserError(f"--{option}: {reason.removeprefix(f'{script}: ')}")

    def _take(self, option: str, value: str) -> None:
        """Keep an option of the user for the scripts that have it."""
        if RESERVED.fullmatch(option):
            raise UserError(
                f"--{option}: run.sh sets this option itself, or does not use it; the "
                f"recipe's own run.sh in egs2/{self.name}/asr1 takes it"
            )
        for_asr = self.accepts("./asr.sh", option, value)
        for_data = self.accepts("local/data.sh", option, value)
        if not for_asr and not for_data:
            raise UserError(
                f"unknown option --{option}: neither run.sh nor the recipe's "
                "local/data.sh nor ESPnet's asr.sh has it (see ./run.sh --help)"
            )
        if for_asr:
            text = self.path("asr.sh").read_text(encoding="utf-8")
            default = re.search(rf"^{option}=({NUMBER})\s", text, re.MULTILINE)
            least = "" if default and "." in default[1] else "(?=.*[1-9])"
            if default and not re.fullmatch(least + NUMBER, value):
                raise UserError(
                    f"--{option}: '{value}' is not a positive number, as ESPnet's "
                    f"{default[1]} is"
                )
            self.chosen[option] = value
        if for_data:
            # a folder; names of sets are asr.sh's, too
            if "/" in value or (not for_asr and Path(value).is_dir()):
                value = os.path.abspath(value)
                if len(value.split()) > 1:
                    raise UserError(
                        f"--{option}: ESPnet's scripts do not take a path with spaces: "
                        f"'{value}'; make a link to it without spaces"
                    )
            # asr.sh splits local_data_opts at spaces
            self.data_options[option] = ",".join(value.split()) or ","

    def _find_wrong_sets(self) -> Iterator[str]:
        """Say what is wrong with the names of the sets."""
        for option in SETS:
            value = self[option]
            sets = value.split() if option == "test_sets" else [value]
            for name in dict.fromkeys(sets or [""]):
                if not re.fullmatch(r"\w[\w.+-]*", name):
                    yield (
                        f"--{option}: '{name}' is not the name of a set; several test "
                        "sets have spaces between them"
                    )
                if sets.count(name) > 1:
                    yield f"--{option}: '{name}' is there more than once"
                if option != "train_set" and name == self["train_set"]:
                    yield f"--{option}: '{name}' is the training set"

    def _find_wrong_values(self) -> Iterator[str]:
        """Say in which options asr.sh would find a mistake late, or never."""
        try:
            check_factors(self["speed_perturb_factors"])
        except UserError as e:
            yield str(e)
        for option, (pattern, right) in VALUES.items():
            if self[option] and not re.fullmatch(pattern, self[option]):
                yield f"--{option}: '{self[option]}' is not {right}"
        for option in FILES:
            for path in self[option].split():
                made = re.match("data/|dump/|none$", path)  # perhaps, by this run
                if not made and not self.path(path).is_file():
                    yield f"--{option}: no file '{self.path(path)}'"

    def _choose_test_sets(self, parts: str) -> None:
        """Test on those of the recipe's test sets that are among the parts."""
        chosen = parts.replace("-", "_").split(",")
        sets = [name for name in self["test_sets"].split() if name in chosen]
        if not sets:
            raise UserError(
                "--parts: there is no test set among them: add one of "
                + self["test_sets"].replace("_", "-")
            )
        self.choose("test_sets", " ".join(sets))

    def choose(self, option: str, value: str) -> None:
        """Set an option of asr.sh as if the user had."""
        self.chosen[option] = self.options[option] = value

    @property
    def trained_on(self) -> str:
        """The training set, or asr.sh's name for the same at several speeds."""
        return self["train_set"] + ("_sp" if self["speed_perturb_factors"] else "")

    @property
    def stats_dir(self) -> Path:
        """The folder that asr.sh gives the statistics of the features."""
        parts = {"feats_type": "raw", "lang": "noinfo", "token_type": "bpe"}
        feats_type, lang, tokens = (self[k] or parts[k] for k in parts)
        if tokens == "bpe":
            tokens += self["nbpe"] or "30"
        name = [feats_type, *([] if lang == "noinfo" else [lang]), tokens]
        name += ["sp"] if self["speed_perturb_factors"] else []
        return self.path("exp", "_".join(["asr_stats", *name]))

    @property
    def test_sets(self) -> list[str]:
        """The sets to decode."""
        return self["test_sets"].split()

    @property
    def sets(self) -> list[str]:
        """All sets of this run; an earlier one may have left others beside them."""
        return [self.trained_on, self["valid_set"], *self.test_sets]

    @property
    def has_lm(self) -> bool:
        """Whether decoding uses a language model; asr.sh's default is yes."""
        return self.options.get("use_lm", "true") == "true"

    def cluster(self) -> str:
        """Return the program that cmd.sh starts trainings with, e.g. slurm.pl."""
        return self.bash(". ./cmd.sh && echo ${cuda_cmd%% *}").stdout.strip()
